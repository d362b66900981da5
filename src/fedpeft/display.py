"""What a person sees: the live display of a run, and tables."""

import time
from collections.abc import Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedpeft.engines.base import Outcome, Scores
from fedpeft.environment import MIB
from fedpeft.federation.federation import RoundRecord
from fedpeft.runs.bench import TimedOption
from fedpeft.runs.build import RunContext
from fedpeft.runs.observer import NullObserver
from fedpeft.tasks.examples import SPLITS

QUIET = 10.0  # seconds between two lines of progress where the output is no terminal


class ProgressDisplay(NullObserver):
    """A progress line per run: round, clients done, personal validation score, bytes, time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.heading = ""
        self.label = ""
        self.said = time.monotonic()  # when a line was last written where there is no terminal
        self.known: set[str] = set()
        self.bytes = self.rounds = 0
        self.metric = ""
        self.task = TaskID(0)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("clients · round {task.fields[round]} · validation {task.fields[validation]}"),
            TextColumn("· {task.fields[sent]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )

    def __enter__(self) -> "ProgressDisplay":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def planned(self, label: str, done: int, total: int) -> None:
        """Which of several runs comes next."""
        self.heading = f"[{done + 1}/{total}] "

    def started(self, label: str, context: RunContext, rounds: int, completed: int) -> None:
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        for note in context.data.notes:
            self.noted(note)
        self.label, self.said = label, time.monotonic()
        each = len(context.federation.select(1))
        self.bytes, self.rounds, self.metric = 0, rounds, context.task.metric
        self.task = self.progress.add_task(
            f"{self.heading}{label}",
            total=rounds * each,
            completed=completed * each,
            round=f"{completed + 1}/{rounds}",
            validation="-",
            sent="0 MiB",
        )

    def client_finished(self, outcome: Outcome) -> None:
        self.progress.advance(self.task)
        if outcome.failure:
            self._warn(f"client {outcome.client}: {outcome.failure}; left out of this round")

    def round_finished(self, record: RoundRecord, validation: dict[str, Scores]) -> None:
        self.bytes += sum(record.bytes_down.values()) + sum(record.bytes_up.values())
        shown: dict[str, Any] = {"sent": f"{self.bytes / MIB:.2f} MiB moved"}
        if validation:
            shown["validation"] = f"{100 * mean(s[self.metric] for s in validation.values()):.1f} %"
        shown["round"] = f"{min(record.round + 1, self.rounds)}/{self.rounds}"
        self.progress.update(self.task, **shown)
        if not self.console.is_terminal and time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            score = f", validation {shown['validation']}" if validation else ""
            self.console.print(
                f"{self.heading}{self.label}: round {record.round}/{self.rounds}{score}", highlight=False
            )
        for client, reason in record.quarantined.items():
            self._warn(f"round {record.round}: quarantined client {client}: {reason}")

    def noted(self, line: str) -> None:
        """Says something once, however many runs of a comparison have it to say."""
        if line not in self.known:
            self.console.print(line, style="dim", highlight=False)
        self.known.add(line)

    def _warn(self, line: str) -> None:
        self.console.print(line, style="yellow", highlight=False)


def label_table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Table:
    """A picture of who holds what: rows by split, and a bar of each client's label shares."""
    colours = ("red", "green", "blue", "yellow", "magenta", "cyan")
    table = Table(title="Who holds what", box=None, header_style="bold")
    for heading in ("client", *SPLITS):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    key = Text("training labels:")
    for i, label in enumerate(labels[:12]):
        key.append("  █", colours[i % len(colours)]).append(f" {label}")
    table.add_column(key, no_wrap=True)
    for holding in rows:
        shares = [holding["labels"].get(label, 0.0) for label in labels]
        bar = Text.assemble(*(("█" * round(24 * s), colours[i % len(colours)]) for i, s in enumerate(shares)))
        table.add_row(holding["client"], *(str(holding[split]) for split in SPLITS), bar)
    return table


def cross_table(result: dict[str, Any]) -> Table:
    """Every client's personal model (rows) on every client's test rows (columns)."""
    matrix = result["cross"]
    best = {rows: max(line[rows] for line in matrix.values()) for rows in matrix}
    table = Table(
        title=f"{result['label']}: whose model (rows) on whose test rows (columns), {result['metric']} %",
        caption="green: the best model for these rows",
        header_style="bold",
    )
    table.add_column("model of")
    for rows in matrix:
        table.add_column(rows, justify="right")
    for model, line in matrix.items():
        cells = (Text(f"{100 * v:.1f}", "green" if v == best[rows] else "") for rows, v in line.items())
        table.add_row(model, *cells)
    return table


def bench_table(label: str, timed: Sequence[TimedOption], machine: str) -> Table:
    """Seconds of a round by option, the fastest first, and how to choose it."""
    plain = _find_plain(timed)
    table = Table(title=f"{label}: seconds of a round", caption=machine, header_style="bold")
    for heading in ("option", "median", "least to most", "first", "speed-up", "results", "in the experiment file"):
        table.add_column(heading, justify="right" if heading in ("median", "first", "speed-up") else "left")
    for row in timed:
        table.add_row(
            row.option.name,
            f"{row.seconds:.2f}",
            f"{min(row.later):.2f} - {max(row.later):.2f}",
            f"{row.first:.2f}",
            f"{plain.seconds / row.seconds:.2f}x",
            row.option.results,
            _format_overrides(row, plain),
        )
    return table


def bench_advice(timed: Sequence[TimedOption]) -> str:
    """Which option to choose: the fastest whose results are those of any other, and a faster one that rounds."""
    plain = _find_plain(timed)
    lines = []
    for row in timed:
        speed_up = f"{plain.seconds / row.seconds:.2f}x"
        lines.append(f"{_format_overrides(row, plain)} ({speed_up}, results {row.option.results})")
        if not row.option.results.startswith("rounded"):
            break
    choice = f"choose {lines[-1]}" + "".join(f"; or {faster}" for faster in lines[:-1])
    if not any(row.option.overrides["prefix_cache"] for row in timed):
        choice += "; no prefix cache: the adapter touches the first block, so nothing below it is frozen"
    return choice


def _find_plain(timed: Sequence[TimedOption]) -> TimedOption:
    return next(row for row in timed if row.option.results == "exact")


def _format_overrides(row: TimedOption, plain: TimedOption) -> str:
    """What an experiment file says to choose the option, where that differs from the plain one."""
    changed = {key: value for key, value in row.option.overrides.items() if value != plain.option.overrides[key]}
    return ", ".join(f"{k}: {'{}' if k == 'prefix_cache' else v}" for k, v in changed.items()) or "workers: 1"


HEADINGS = (
    "method", "lr", "personal %", "worst client %", "before aggr. %", "adapter", "head", "MiB down/up", "peak MiB", "s",
)  # fmt: skip


def comparison_table(comparison: dict[str, Any]) -> Table:
    """The final table: accuracy over seeds first, then what it cost."""
    seeds, scenario = len(comparison["seeds"]), comparison.get("scenario")
    metric = comparison["rows"][0]["metric"]
    name = comparison["name"] + (f", {scenario}" if scenario else "")
    table = Table(
        title=f"{name}: personal test {metric}, last round, {seeds} seed{'s' * (seeds > 1)}",
        caption="personal: the model each client would deploy, on its own test rows, clients weighted alike, mean ± sd "
        "over seeds; before aggr.: the model its last local training left; MiB: per client and round, as encoded; "
        "peak: of the whole process",
        header_style="bold",
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in comparison["rows"]:
        table.add_row(*cells(row))
    return table


def joining_table(joined: dict[str, Any]) -> Table:
    """A joining client's test score by model, in the order in which it came to them."""
    epochs = f"{joined['epochs']} local epoch{'s' * (joined['epochs'] > 1)}"
    lines = {
        "received": "as received, at once",
        "trained": f"after {epochs} on it",
        "personal": "after the server's answer: exported",
        "alone": f"alone: {epochs} from the start",
        "mean": "mean of all clients",
    }
    rows = ", ".join(f"{joined['rows'][split]} {split}" for split in SPLITS)
    table = Table(title=f"{joined['client']} joins {joined['method']} ({rows} rows)", header_style="bold")
    table.add_column("model")
    table.add_column(f"test {joined['metric']} %", justify="right")
    for which, line in lines.items():
        if which in joined["test"]:
            table.add_row(line, f"{100 * joined['test'][which][joined['metric']]:.1f}")
    return table


def cells(row: dict[str, Any]) -> list[str]:
    """One method's row as text, in the order of HEADINGS."""
    return [
        row["label"],
        f"{row['lr']:g}" if row["adapter_parameters"] + row["head_parameters"] else "-",
        *(_percent(row[key]) for key in ("personal", "worst_client", "trained")),
        f"{row['adapter_parameters']:,}",
        f"{row['head_parameters']:,}",
        f"{row['bytes_down']['mean'] / MIB:.3f}/{row['bytes_up']['mean'] / MIB:.3f}",
        f"{row['peak_memory_mib']:.0f}",
        f"{row['seconds']['mean']:.0f}",
    ]


def _percent(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value['mean']:.1f}" + ("" if value["sd"] is None else f" ± {100 * value['sd']:.1f}")
