"""The interface of a callback, and what it is told of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft.config import Experiment
from fedpeft.engines.base import Outcome, Scores
from fedpeft.federation.record import RoundRecord


@dataclass(frozen=True)
class RunInfo:
    """A run that begins, or goes on after `completed` of its rounds.

    `options` are the method's, all of them; `clients` the ids of those that are scored, sorted. Of the runs of a
    comparison it is number `number` of `count`.
    """

    folder: Path
    label: str
    method: str
    seed: int
    experiment: Experiment
    options: Mapping[str, Any]
    metric: str
    clients: tuple[str, ...]
    clients_per_round: int
    evaluations: int  # how often each client is scored in the whole run
    evaluations_done: int = 0
    completed: int = 0
    notes: tuple[str, ...] = ()  # what a user should know of the data, the model and the settings
    number: int = 1
    count: int = 1

    @property
    def rounds(self) -> int:
        """How many rounds the whole run has."""
        return self.experiment.training.rounds


class RunCallback:
    """Watches runs; every method does nothing until a subclass overrides it.

    All are called in the thread that runs the experiment, in order, and the run waits for them. What they return is
    ignored. Where one raises an exception the run goes on to the end of its round, keeps that round's checkpoint and
    ends with a `UserError` of one line; the traceback is in `failures.log` of the run's folder. Example:

        class Printer(fedpeft.RunCallback):
            def on_round_end(self, record, validation):
                print(record.round, sum(record.bytes_up.values()))

        fedpeft.run("experiment.yaml", callbacks=[Printer()])
    """

    def on_run_start(self, run: RunInfo) -> None:
        """A run begins, or goes on."""

    def on_client_end(self, outcome: Outcome) -> None:
        """A client's round ended, with a reply or with a failure."""

    def on_evaluation_start(self, split: str, clients: int) -> None:
        """So many clients' models begin to be scored on a split: "validation", "test", or "cross", each on all test
        examples."""

    def on_evaluation_end(self, split: str, clients: int) -> None:
        """They are scored."""

    def on_round_end(self, record: RoundRecord, validation: Mapping[str, Scores]) -> None:
        """A round is on disk; `validation` holds its scores by client, empty where the round was not evaluated."""

    def on_note(self, line: str) -> None:
        """Something that a user should know."""

    def on_run_end(self, result: Mapping[str, Any]) -> None:
        """A run is finished and on disk; `result` is what its result.json holds."""

    def on_run_error(self, error: BaseException) -> None:
        """A run ends before its last round, by an error or an interrupt; its last checkpoint is on disk."""
