"""The live display of a run: what it does now, how far it is, what it has moved, and how long it will take."""

import time
from collections import Counter
from collections.abc import Mapping
from statistics import mean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedpeft.callbacks import RunCallback, RunInfo
from fedpeft.display.sparkline import draw_sparkline
from fedpeft.engines.base import Outcome, Scores
from fedpeft.errors import printable
from fedpeft.federation.record import RoundRecord
from fedpeft.units import MIB

QUIET = 10.0  # seconds between two lines of progress where the output is no terminal
PERIOD = 600.0  # seconds over which the time left is estimated: a round's steps are unlike in length
WIDE, WIDEST = 100, 120  # columns from which there is room for a bar, and for the course of the score
STAGES = {"validation": "validating", "test": "testing", "cross": "cross-evaluating"}


class ProgressDisplay(RunCallback):
    """A progress line per run. A step is one client's local training in a round, or its evaluation on a split."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console = console or Console(markup=False)
        self.heading = self.label = self.metric = ""
        self.last_line = time.monotonic()  # when a line was last written where there is no terminal
        self.notes: set[str] = set()
        self.left_out: Counter[str] = Counter()  # rounds by client
        self.retried: set[str] = set()  # clients of which it was told
        self.scores: list[float] = []  # of validation, by round
        self.bytes = self.rounds = self.steps = self.steps_done = 0  # steps: clients' trainings in a round
        self.task = TaskID(0)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            *([BarColumn(16)] if console.width >= WIDE else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stage]}{task.fields[validation]}{task.fields[sent]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            speed_estimate_period=PERIOD,
        )

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:  # else it would print an empty line
            self.progress.stop()

    def on_run_start(self, run: RunInfo) -> None:
        self.progress.start()  # not before: a mistake found first would have an empty line above it
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        for note in run.notes:
            self.on_note(note)
        self.heading = f"[{run.number}/{run.count}] " if run.count > 1 else ""
        self.label, self.last_line = run.label, time.monotonic()
        self.left_out.clear()
        self.retried.clear()
        self.scores.clear()
        self.bytes, self.rounds, self.metric = 0, run.rounds, run.metric
        trained, evaluated = run.clients_per_round, len(run.clients)
        self.steps, self.steps_done = trained, 0
        self.task = self.progress.add_task(
            f"{self.heading}{run.label}",
            total=run.rounds * trained + run.evaluations * evaluated,
            completed=run.completed * trained + run.evaluations_done * evaluated,
            stage="",
            validation="",
            sent="",
        )
        self._show_round(run.completed + 1)

    def on_client_end(self, outcome: Outcome) -> None:
        self.steps_done += 1
        self.progress.advance(self.task)

    def on_evaluation_start(self, split: str, clients: int) -> None:
        self.progress.update(self.task, stage=STAGES.get(split, split))
        if split == "cross":  # only some methods' runs have it
            self.progress.update(self.task, total=(self.progress.tasks[0].total or 0) + clients)

    def on_evaluation_end(self, split: str, clients: int) -> None:
        self.progress.advance(self.task, clients)

    def on_round_end(self, record: RoundRecord, validation: Mapping[str, Scores]) -> None:
        self.bytes += sum(record.bytes_down.values()) + sum(record.bytes_up.values())
        score = ""
        if validation:
            self.scores.append(mean(s[self.metric] for s in validation.values()))
            score = f"{100 * self.scores[-1]:.1f} %"
            self.progress.update(self.task, validation=f" · validation {score}{self._draw_scores()}")
        self.progress.update(self.task, sent=f" · {self.bytes / MIB:.1f} MiB")
        self.progress.advance(self.task, self.steps - self.steps_done)  # those that were excluded
        self.steps_done = 0
        self._show_round(record.round + 1)
        if not self.console.is_terminal and time.monotonic() - self.last_line > QUIET:
            self.last_line = time.monotonic()
            suffix = f", validation {score}" if score else ""
            self._print(f"{self.heading}{self.label}: round {record.round}/{self.rounds}{suffix}")
        for client, reason in record.quarantined.items():
            self.left_out[client] += 1
            if self.left_out[client] == 1:  # one line per client: the tables count its other rounds
                self._print(f"{self.label}, round {record.round}: client {client} is left out: {reason}", "yellow")

        self._show_policy(record)

    def _draw_scores(self) -> str:
        """The course of the validation score, where there is room and the terminal has the characters."""
        has_room = (
            self.console.is_terminal
            and self.console.width >= WIDEST
            and self.console.encoding.lower().startswith("utf")
        )
        return f" {draw_sparkline(self.scores)}" if has_room and len(self.scores) > 1 else ""

    def _show_policy(self, record: RoundRecord) -> None:
        """Says who was asked again, once per client, and each change of who is asked."""
        answered = record.retried.keys() - record.quarantined.keys() - self.retried
        self.retried |= answered
        lines = dict.fromkeys(answered, "answered when it was asked again")
        lines |= dict.fromkeys(record.readmitted, "is asked again after its exclusion")
        lines |= {
            client: f"is excluded until round {last} is over: no usable reply for some rounds in a row"
            for client, last in record.excluded.items()
        }
        for client, line in sorted(lines.items()):
            self._print(f"{self.label}, round {record.round}: client {client} {line}", "yellow")

    def on_note(self, line: str) -> None:
        """Says something once, however many runs of a comparison have it to say."""
        if line not in self.notes:
            self._print(line, "dim")
        self.notes.add(line)

    def _show_round(self, round_: int) -> None:
        self.progress.update(self.task, stage=f"round {min(round_, self.rounds)}/{self.rounds}")

    def _print(self, line: str, style: str | None = None) -> None:
        self.console.print(printable(line), style=style, highlight=False, soft_wrap=True)
