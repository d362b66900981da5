"""What an experiment may say of trackers: where else than in the run's folder its numbers go."""

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid")


class TensorBoardConfig(BaseModel):
    """TensorBoard's event files."""

    model_config = _STRICT

    folder: str | None = Field(None, description="for the event files; default: tensorboard in the run's folder")


class MlflowConfig(BaseModel):
    """MLflow's tracking."""

    model_config = _STRICT

    uri: str | None = Field(None, description="of the tracking server or database; default: MLFLOW_TRACKING_URI")
    experiment: str = Field("fedpeft", description="MLflow's experiment, made where it is missing")


class WandbConfig(BaseModel):
    """Weights & Biases; untested: it needs an account."""

    model_config = _STRICT

    project: str = Field("fedpeft", description="the project that runs belong to")


class TrackingConfig(BaseModel):
    """Trackers that hear of every round, each by its own client; `pip install 'fedpeft[tracking]'` brings the first
    two."""

    model_config = _STRICT

    tensorboard: TensorBoardConfig | None = Field(None, description="{} for its defaults")
    mlflow: MlflowConfig | None = Field(None, description="{} for its defaults")
    wandb: WandbConfig | None = Field(None, description="{} for its defaults; untested without an account")
