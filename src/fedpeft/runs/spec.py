"""What one run is, and how its folder keeps it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft.config import Experiment, parse_experiment
from fedpeft.federation.method import Method
from fedpeft.runs.folder import RunFolder


@dataclass(frozen=True)
class RunSpec:
    """An experiment, one of its method labels, a seed, a learning rate (None: the method's), and where paths start."""

    experiment: Experiment
    label: str
    seed: int
    lr: float | None
    base: Path

    def make_method(self) -> Method[Any]:
        """The method with its options."""
        return self.experiment.build_method(self.label, self.lr)

    def as_dict(self) -> dict[str, Any]:
        """The resolved settings, as experiment.yaml keeps them."""
        options = {"method": self.experiment.method_name(self.label), **self.make_method().options.model_dump()}
        resolved = self.experiment.model_dump() | {"seed": self.seed, "methods": {self.label: options}}
        return {"base": str(self.base.resolve()), "experiment": resolved}

    @classmethod
    def read(cls, folder: RunFolder) -> "RunSpec":
        """What a run was started with. Raises UserError where its settings are missing or damaged."""
        kept = folder.settings
        crossed, methods = kept["experiment"].get("cross_evaluation"), kept["experiment"]["methods"]
        if isinstance(crossed, list):  # it may name methods of the comparison that this run is not of
            kept["experiment"]["cross_evaluation"] = [label for label in crossed if label in methods]
        experiment = parse_experiment(kept["experiment"], [], str(folder.path / "experiment.yaml"))
        (label,) = experiment.methods
        base = Path(kept["base"])
        local = os.path.abspath(base / experiment.model.name)
        if os.path.isdir(local):  # runs of earlier versions keep a relative path
            experiment.model.name = local
        return cls(experiment, label, experiment.seed, None, base)
