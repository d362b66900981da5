"""What the files of a run must hold to be used: a run folder may be damaged, or a stranger's."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from fedpeft.federation.deployment import DeployRule, ModelChoice

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _require_text(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"has control characters, received {text[:60]!r}")
    return text


def _require_client(client: str) -> str:
    if "/" in client or "\\" in client or client[:1] in ("", "."):
        raise ValueError(f"is no client's id, received {client[:60]!r}")
    return client


Text = Annotated[str, AfterValidator(_require_text)]  # what a terminal may show
ClientId = Annotated[Text, AfterValidator(_require_client)]  # what may name a folder


class StoredModel(BaseModel):
    model_config = ConfigDict(strict=True)


class StoredOptions(StoredModel):
    """A method's options, as far as tables show them."""

    lr: float


class StoredAverages(StoredModel):
    """Scores of one model over the clients."""

    by_client: float
    worst_client: float
    loss: float


class StoredScores(StoredModel):
    """Test scores by model."""

    deployed: StoredAverages = Field(validation_alias=AliasChoices("deployed", "personal"))  # as it was called before
    received: StoredAverages | None = None
    trained: StoredAverages | None = None


class StoredDeployment(StoredModel):
    """Which model each client deploys, and its validation scores."""

    rule: DeployRule
    choices: dict[ClientId, ModelChoice]
    validation: StoredScores


class StoredSeconds(StoredModel):
    """Seconds of a run by part, and of the whole."""

    train: float
    aggregate: float
    evaluate: float
    total: float


class StoredLeftOut(StoredModel):
    """The rounds in which a client's reply did not count, and the reason of the first."""

    rounds: list[int]
    reason: Text


class StoredPoint(StoredModel):
    """Where a run stood after a round."""

    model_config = ConfigDict(strict=True, extra="forbid")

    round: int
    score: float
    bytes: float
    client_seconds: float
    peak_memory_mib: float | None = None


class StoredCurve(StoredModel):
    """Validation score and costs by round."""

    points: list[StoredPoint]


class StoredResult(StoredModel):
    """The fields of result.json that tables and comparisons read."""

    label: Text
    method: Text
    metric: Text
    options: StoredOptions
    seed: int
    rounds: int
    clients: list[ClientId] = Field(min_length=1)
    deployment: StoredDeployment | None = None
    test: StoredScores
    test_by_client: dict[str, dict[ClientId, dict[str, float | None]]] = Field(default_factory=dict)
    validation: dict[str, StoredAverages]
    curve: StoredCurve | None = None
    adapter_parameters: float
    head_parameters: float
    bytes_down: float
    bytes_up: float
    quarantined: int
    client_rounds: int = 0
    left_out: dict[ClientId, StoredLeftOut] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    retried: int = 0
    excluded: dict[ClientId, list[list[int]]] = Field(default_factory=dict)
    peak_memory_mib: float
    seconds: StoredSeconds
    cross: dict[ClientId, dict[ClientId, float]] = Field(default_factory=dict)

    @field_validator("deployment", mode="before")
    @classmethod
    def _is_there(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is null")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> "StoredResult":
        if str(self.rounds) not in self.validation:
            raise ValueError(f"validation: the last round is missing, received {list(self.validation)[:9]}")
        if any(row.keys() != self.cross.keys() for row in self.cross.values()):
            raise ValueError("cross: not every model has a score on every client's examples")
        return self


def upgrade_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result of an earlier version in today's form: every client deployed what it received, its `personal` model."""
    for key in ("test", "test_by_client"):
        scores = result.get(key)
        if isinstance(scores, dict) and "personal" in scores:
            personal = scores.pop("personal")
            result[key] = {"deployed": personal, "received": personal, **scores}
    return result


class StoredRow(StoredModel):
    """One method of a comparison."""

    label: Text


class StoredComparison(StoredModel):
    """What a later comparison asks compare.json for."""

    rows: list[StoredRow]


class StoredSettings(StoredModel):
    """The settings of a run, as `RunSpec.as_dict` has them: an experiment file of one's own has neither key."""

    base: str
    experiment: dict[str, Any]
    id: str | None = Field(None, pattern="^[0-9a-f]{32}$")

    @field_validator("experiment")
    @classmethod
    def _has_one_method(cls, experiment: dict[str, Any]) -> dict[str, Any]:
        methods = experiment.get("methods")
        if not isinstance(methods, dict) or len(methods) != 1:
            raise ValueError(f"not the settings of one method, received {str(methods)[:60]}")
        return experiment
