"""One run from start to result: rounds, evaluation, logs, checkpoints, export. Resume continues to the same bit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from fedpeft.acceleration import Acceleration
from fedpeft.config import Experiment, parse_experiment
from fedpeft.engines.base import ModelChoice, Outcome, Scores
from fedpeft.environment import read_peak_mib, reset_peak_memory
from fedpeft.errors import UserError
from fedpeft.federation.federation import RoundRecord
from fedpeft.runs.build import RunContext, build
from fedpeft.runs.export import make_card
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.result import cross_matrix, summarise


class Observer(Protocol):
    """Who watches a run: the live display, or nobody."""

    def started(self, label: str, built: RunContext, rounds: int, completed: int) -> None: ...

    def client_finished(self, outcome: Outcome) -> None: ...

    def round_finished(self, record: RoundRecord, validation: dict[str, Scores]) -> None: ...

    def noted(self, line: str) -> None: ...


class NullObserver:
    """Watches nothing."""

    def started(self, label: str, built: RunContext, rounds: int, completed: int) -> None: ...

    def client_finished(self, outcome: Outcome) -> None: ...

    def round_finished(self, record: RoundRecord, validation: dict[str, Scores]) -> None: ...

    def noted(self, line: str) -> None: ...


@dataclass(frozen=True)
class RunSpec:
    """What one run is: an experiment, one of its method labels, a seed, a learning rate, and where paths start."""

    experiment: Experiment
    label: str
    seed: int
    lr: float | None
    base: Path

    def as_dict(self) -> dict[str, Any]:
        """The resolved settings, as experiment.yaml keeps them."""
        method = self.experiment.build_method(self.label, self.lr)
        options = {"method": self.experiment.method_name(self.label), **method.options.model_dump()}
        resolved = self.experiment.model_dump() | {"seed": self.seed, "methods": {self.label: options}}
        return {"base": str(self.base.resolve()), "experiment": resolved}

    @classmethod
    def of(cls, folder: RunFolder) -> "RunSpec":
        """The settings a run was started with."""
        kept = folder.settings
        experiment = parse_experiment(kept["experiment"], [], str(folder.path / "experiment.yaml"))
        (label,) = experiment.methods
        return cls(experiment, label, experiment.seed, None, Path(kept["base"]))


def start(
    settings: RunSpec,
    path: Path,
    observer: Observer,
    keep: bool = True,
    accelerations: Sequence[Acceleration] | None = None,
) -> dict[str, Any]:
    """A new run in the folder `path`; returns its result. `keep` exports adapters and keeps the checkpoint; `cache` is
    one that other runs share.

    Nothing is written before model and data are found to be in order, and nothing stays where the first round fails.
    """
    RunFolder.require_free(path)
    built = _build(settings, accelerations)
    folder = RunFolder.create(path, settings.as_dict())
    try:
        return _run(folder, built, settings, observer, keep)
    except UserError:
        folder.discard_if_empty()
        raise


def resume(
    path: Path, observer: Observer, keep: bool = True, accelerations: Sequence[Acceleration] | None = None
) -> dict[str, Any]:
    """Continues a run from its last checkpoint; returns its result, at once if it has one."""
    folder = RunFolder(path)
    settings = RunSpec.of(folder)
    return folder.result or _run(folder, _build(settings, accelerations), settings, observer, keep)


def _build(settings: RunSpec, accelerations: Sequence[Acceleration] | None) -> RunContext:
    reset_peak_memory()
    method = settings.experiment.build_method(settings.label, settings.lr)
    return build(settings.experiment, method, settings.seed, settings.base, accelerations)


def _run(folder: RunFolder, built: RunContext, settings: RunSpec, observer: Observer, keep: bool) -> dict[str, Any]:
    try:
        progress = _Progress(folder, built)
        observer.started(settings.label, built, settings.experiment.training.rounds, built.federation.round)
        progress.rounds(observer)
        final = progress.final_scores()
        resolved = settings.as_dict()["experiment"]
        result = summarise(resolved, built, final, folder, progress.seconds, read_peak_mib())
        wanted = settings.experiment.cross_evaluation
        if wanted is True or (wanted and settings.label in wanted):
            result["cross"] = cross_matrix(built)
        if keep:
            card = make_card(settings.experiment, built.data.labels)
            built.engine.export(built.federation.deployment_messages(), folder.path / "clients", card)
        folder.write_result(result)
        if not keep:
            folder.drop_checkpoint()
        return result
    finally:
        built.engine.close()


class _Progress:
    """The loop over rounds, with what it must remember: seconds so far, and where the logs stand."""

    def __init__(self, folder: RunFolder, built: RunContext) -> None:
        self.folder, self.built = folder, built
        self.seconds = {"train": 0.0, "aggregate": 0.0, "evaluate": 0.0, "total": 0.0}
        tree = folder.restore()
        if tree is not None:
            federation = built.federation
            federation.round, self.seconds = tree["round"], tree["seconds"]
            federation.state = type(federation.state)(**tree["state"])
            built.engine.restore(tree["round"], tree["clients"])

    def rounds(self, observer: Observer) -> None:
        """Runs what is left; after each round logs first, then the checkpoint that vouches for them."""
        federation, settings = self.built.federation, self.built.federation.training
        earlier, began = self.seconds["total"], time.perf_counter()
        while federation.round < settings.rounds:
            record = federation.step(observer.client_finished)
            last = federation.round == settings.rounds
            due = last or (settings.evaluate_every and federation.round % settings.evaluate_every == 0)
            validation = self._evaluated("validation", "personal") if due else {}
            self.seconds["train"] += record.train_seconds
            self.seconds["aggregate"] += record.aggregate_seconds
            self.folder.append("metrics.jsonl", _metric_lines(record, validation))
            self.folder.append("timings.jsonl", [_timing_line(record)])
            self.seconds["total"] = earlier + time.perf_counter() - began
            self._checkpoint()
            observer.round_finished(record, validation)

    def final_scores(self) -> dict[str, dict[str, Scores]]:
        """The test split, looked at once, after the last round: by which model, then by client."""
        federation, before = self.built.federation, self.seconds["evaluate"]
        asked = get_args(ModelChoice) if federation.training.before_aggregation else ("personal",)
        scores = {which: self._evaluated("test", which) for which in asked}
        self.seconds["total"] += self.seconds["evaluate"] - before
        lines = [
            {"round": federation.round, "split": "test", "model": which, "client": client, **values}
            for which, by_client in scores.items()
            for client, values in by_client.items()
        ]
        self.folder.append("metrics.jsonl", lines)
        return scores

    def _checkpoint(self) -> None:
        federation = self.built.federation
        self.folder.checkpoint(
            {
                "round": federation.round,
                "seconds": self.seconds,
                "state": federation.state,
                "clients": self.built.engine.save(federation.round),
            }
        )

    def _evaluated(self, split: str, which: ModelChoice) -> dict[str, Scores]:
        began = time.perf_counter()
        scores = self.built.federation.evaluate(split, which)
        self.seconds["evaluate"] += time.perf_counter() - began
        return scores


def _metric_lines(record: RoundRecord, validation: dict[str, Scores]) -> list[dict[str, Any]]:
    trained = [
        {
            **record.scalars.get(client, {}),  # first: what the server knows is not for a client to say
            "round": record.round,
            "split": "train",
            "client": client,
            "bytes_down": record.bytes_down[client],
            "bytes_up": record.bytes_up.get(client, 0),
            **({"quarantined": record.quarantined[client]} if client in record.quarantined else {}),
        }
        for client in sorted(record.bytes_down)
    ]
    validated = [
        {"round": record.round, "split": "validation", "model": "personal", "client": client, **scores}
        for client, scores in validation.items()
    ]
    return trained + validated


def _timing_line(record: RoundRecord) -> dict[str, Any]:
    return {
        "round": record.round,
        "train_seconds": round(record.train_seconds, 4),
        "aggregate_seconds": round(record.aggregate_seconds, 4),
        "client_seconds": {client: round(s, 4) for client, s in sorted(record.client_seconds.items())},
    }
