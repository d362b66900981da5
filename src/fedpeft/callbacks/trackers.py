"""Trackers as callbacks: TensorBoard, MLflow and Weights & Biases, each through its own client, imported when used."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from statistics import mean
from typing import Any

from fedpeft.callbacks.base import RunCallback, RunInfo
from fedpeft.config.tracking import MlflowConfig, TensorBoardConfig, TrackingConfig, WandbConfig
from fedpeft.engines.base import Scores
from fedpeft.errors import UserError
from fedpeft.federation.record import RoundRecord

INSTALL = "pip install 'fedpeft[tracking]'"


class Tracker(RunCallback):
    """Logs each round's means: validation scores, training loss, bytes, clients left out; at the end the test score."""

    @abstractmethod
    def open(self, run: RunInfo) -> None:
        """Begins the log of a run, or goes on with it."""

    @abstractmethod
    def log(self, values: Mapping[str, float], round_: int) -> None:
        """Adds values of a round."""

    @abstractmethod
    def close(self, is_finished: bool) -> None:
        """Ends the log."""

    def on_run_start(self, run: RunInfo) -> None:
        self.run = run
        self.open(run)

    def on_round_end(self, record: RoundRecord, validation: Mapping[str, Scores]) -> None:
        values = {
            "bytes/down": float(sum(record.bytes_down.values())),
            "bytes/up": float(sum(record.bytes_up.values())),
            "clients/left_out": float(len(record.quarantined)),
        }
        losses = [float(scalars["loss"]) for scalars in record.scalars.values() if "loss" in scalars]
        if losses:
            values["train/loss"] = mean(losses)
        if validation:
            scores = [own[self.run.metric] for own in validation.values()]
            values |= {f"validation/{self.run.metric}": mean(scores), "validation/worst_client": min(scores)}
        self.log(values, record.round)

    def on_run_end(self, result: Mapping[str, Any]) -> None:
        deployed = result["test"]["deployed"]
        values = {f"test/{self.run.metric}": deployed["by_client"], "test/worst_client": deployed["worst_client"]}
        self.log(values, int(result["rounds"]))
        self.close(is_finished=True)

    def on_run_error(self, error: BaseException) -> None:
        self.close(is_finished=False)


class TensorBoardTracker(Tracker):
    """Event files; a run that is resumed replaces what it had logged after its last checkpoint."""

    def __init__(self, config: TensorBoardConfig) -> None:
        self.config = config

    def open(self, run: RunInfo) -> None:
        tensorboard = _import("torch.utils.tensorboard", "tensorboard", INSTALL)
        folder = self.config.folder
        path = f"{folder}/{run.label}-{run.seed}" if folder else str(run.folder / "tensorboard")
        self.writer = tensorboard.SummaryWriter(path, purge_step=run.completed + 1 if run.completed else None)

    def log(self, values: Mapping[str, float], round_: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, round_)
        self.writer.flush()

    def close(self, is_finished: bool) -> None:
        self.writer.close()


class MlflowTracker(Tracker):
    """A run of MLflow's for each run; one that is resumed goes on in the same."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config

    def open(self, run: RunInfo) -> None:
        mlflow = _import("mlflow", "mlflow", INSTALL)
        self.client = mlflow.MlflowClient(tracking_uri=self.config.uri)
        experiment = self.client.get_experiment_by_name(self.config.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.config.experiment)
        key = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:32]
        earlier = self.client.search_runs([number], f"tags.fedpeft_run = '{key}'", max_results=1)
        if run.completed and earlier:
            self.id = earlier[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self.client.create_run(number, tags={"fedpeft_run": key}, run_name=run.folder.name).info.run_id
        settings = {"method": run.method, "seed": run.seed, "rounds": run.rounds, **run.options}
        for name, value in settings.items():
            self.client.log_param(self.id, name, str(value)[:500])

    def log(self, values: Mapping[str, float], round_: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=round_)

    def close(self, is_finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if is_finished else "KILLED")


class WandbTracker(Tracker):
    """A run of Weights & Biases; untested: it needs an account."""

    def __init__(self, config: WandbConfig) -> None:
        self.config = config

    def open(self, run: RunInfo) -> None:
        wandb = _import("wandb", "wandb", "pip install wandb")
        key = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:32]
        settings = {"method": run.method, "seed": run.seed, "rounds": run.rounds, **run.options}
        self.log_to = wandb.init(
            project=self.config.project, id=key, name=run.folder.name, resume="allow", config=settings
        )

    def log(self, values: Mapping[str, float], round_: int) -> None:
        self.log_to.log(dict(values), step=round_)

    def close(self, is_finished: bool) -> None:
        self.log_to.finish(exit_code=0 if is_finished else 1)


def make_trackers(config: TrackingConfig) -> list[RunCallback]:
    """A tracker for each that the experiment asks for."""
    trackers: list[RunCallback] = []
    if config.tensorboard is not None:
        trackers.append(TensorBoardTracker(config.tensorboard))
    if config.mlflow is not None:
        trackers.append(MlflowTracker(config.mlflow))
    if config.wandb is not None:
        trackers.append(WandbTracker(config.wandb))
    return trackers


def _import(module: str, package: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"tracking.{package}: {package} is not installed; {install}") from error
