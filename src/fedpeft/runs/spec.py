"""What one run is, and how its folder keeps it."""

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedpeft.config import Experiment, parse_experiment
from fedpeft.federation.method import Method
from fedpeft.runs.folder import CHECKPOINT, RunFolder
from fedpeft.runs.stored_checkpoint import RunCheckpoint


@dataclass(frozen=True)
class RunSpec:
    """An experiment, one of its method labels, a seed, a learning rate (None: the method's), and where paths start.

    `id` names the run where its clients keep states of their own; two runs of equal settings have two.
    """

    experiment: Experiment
    label: str
    seed: int
    lr: float | None
    base: Path
    id: str | None = None

    def with_id(self) -> "RunSpec":
        """The same run with an id that no other has."""
        return replace(self, id=secrets.token_hex(16))

    def make_method(self) -> Method[Any]:
        """The method with its options."""
        return self.experiment.build_method(self.label, self.lr)

    @property
    def is_crossed(self) -> bool:
        """Whether every client's model is scored on every client's examples."""
        labels = self.experiment.cross_evaluation
        return labels if isinstance(labels, bool) else self.label in labels

    def as_dict(self) -> dict[str, Any]:
        """The resolved settings, as experiment.yaml keeps them."""
        options = {"method": self.experiment.get_method_name(self.label), **self.make_method().options.model_dump()}
        own = {"seed": self.seed, "methods": {self.label: options}, "cross_evaluation": self.is_crossed}
        named = {} if self.id is None else {"id": self.id}
        return {"base": str(self.base.resolve()), "experiment": self.experiment.model_dump() | own, **named}

    def find_difference(self, other: "RunSpec") -> str:
        """The first setting that decides results and is not the other's, with both values; "" where none is."""
        return _find_difference(self._decisive(), other._decisive())

    def _decisive(self) -> dict[str, Any]:
        beside = {"tuning": None, "target": None, "tracking": None}  # of a comparison, or of who watches
        experiment = self.as_dict()["experiment"] | beside
        device_type = self.experiment.model.devices[0].partition(":")[0]  # results do not depend on their number
        return experiment | {"workers": None, "flower": None, "model": experiment["model"] | {"device": device_type}}

    def load_checkpoint(self, folder: RunFolder) -> RunCheckpoint | None:
        """The last checkpoint of this run, None when there is none yet.

        Raises UserError where it is damaged or of a run with other settings.
        """
        saved = folder.load_checkpoint()
        if saved is not None and saved.settings is not None:
            other = RunSpec.parse(saved.settings.model_dump(), str(folder.path / CHECKPOINT))
            if difference := other.find_difference(self):
                raise folder.make_checkpoint_error(f"it is of a run with other settings ({difference})")
        return saved

    @classmethod
    def read(cls, folder: RunFolder) -> "RunSpec":
        """What a run was started with. Raises UserError where its settings are missing or damaged."""
        return cls.parse(folder.settings, str(folder.path / "experiment.yaml"))

    @classmethod
    def parse(cls, settings: dict[str, Any], where: str) -> "RunSpec":
        """The inverse of `as_dict`, of earlier versions too. Raises UserError, which begins with `where`."""
        crossed, methods = settings["experiment"].get("cross_evaluation"), settings["experiment"]["methods"]
        if isinstance(crossed, list):  # earlier versions kept the whole list of the comparison that a run was part of
            settings["experiment"]["cross_evaluation"] = any(label in crossed for label in methods)
        training = settings["experiment"].setdefault("training", {})
        if isinstance(training, dict):
            training.setdefault("deploy", "received")  # as earlier versions had it
        experiment = parse_experiment(settings["experiment"], [], where)
        (label,) = experiment.methods
        base = Path(settings["base"])
        local = os.path.abspath(base / experiment.model.name)
        if os.path.isdir(local):  # runs of earlier versions keep a relative path
            experiment.model.name = local
        return cls(experiment, label, experiment.seed, None, base, settings.get("id"))


def _find_difference(first: Any, second: Any, path: str = "") -> str:
    if isinstance(first, dict) and isinstance(second, dict):
        parts = (_find_difference(first.get(k), second.get(k), f"{path}.{k}".lstrip(".")) for k in (first | second))
        return next(filter(None, parts), "")
    return "" if first == second else f"{path}: {first} there, {second} here"
