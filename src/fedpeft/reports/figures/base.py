"""What every figure of a report is: a table, how it is drawn, and the words beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from fedpeft.reports.records import ReportRecord, to_number
from fedpeft.reports.tables import Cell, Column, MeanAndDeviation, Table

MOST_ROUNDS = 60  # columns of a map over rounds, points of a curve
MOST_CLIENTS = 100  # rows of a map over clients

CHOICES = {
    "deployed": "the model that each client deploys",
    "personal": "the model that each client would deploy",
    "received": "what the server's message gives each client now",
    "trained": "what each client's last local training left, before aggregation",
}

NAMES = {"personal": "deployed"}  # a heading for a model, where its name is no help: of earlier versions


@dataclass(frozen=True)
class Figure:
    """A table, drawn as `chart` says (None: the table alone), with one sentence that sums it up.

    `chart` names a kind that report.js knows, under "type", and what that kind needs. `is_open` shows the table without
    a click; a figure that is not `shown` is only there to be downloaded.
    """

    id: str
    title: str
    summary: str
    caption: str
    table: Table
    chart: dict[str, Any] | None = None
    is_open: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    id: str
    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class ScoreUnit:
    """How the compared score is shown: in percent, unless a method's author has a score outside -1..1."""

    metric: str
    is_percent: bool

    def write(self, score: Cell) -> str:
        """A score with its unit."""
        column = self.make_column("")
        return f"{column.format(score)} {column.unit}".rstrip()

    def make_column(self, name: str, unit: str | None = None) -> Column:
        """A column of scores, or in another unit of their differences."""
        if not self.is_percent:
            return Column(name, digits=3)
        return Column(name, "%" if unit is None else unit, 1, 100.0)


def get_score_unit(record: ReportRecord) -> ScoreUnit:
    """The unit of the record's metric, from the test scores there are."""
    scores = [to_number(test.get("by_client")) for result in record.results for test in result.test.values()]
    return ScoreUnit(record.metric, all(score is None or -1 <= score <= 1 for score in scores))


def describe_choice(choice: str) -> str:
    """Which model a score is of, in words."""
    return CHOICES.get(choice, f"the model named {choice!r}")


def average(numbers: Sequence[float | None]) -> MeanAndDeviation | None:
    """Mean and standard deviation of the numbers there are; None where there are none."""
    present = [number for number in numbers if number is not None]
    if not present:
        return None
    return MeanAndDeviation(mean(present), stdev(present) if len(present) > 1 else None)


def take_evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most that many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def describe_seeds(record: ReportRecord) -> str:
    """`1 seed` or `3 seeds`, as most methods have."""
    seeds = len({run.seed for method in record.methods for run in method.runs})
    return f"{seeds} seed{'s' * (seeds != 1)}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def describe_thinning(shown: int, every: int, noun: str) -> str:
    """How many of them are shown, where it is not all."""
    return f"all {count(every, noun)}" if shown == every else f"{shown} of {count(every, noun)}, evenly spaced"


def make_id(text: str) -> str:
    """The text as a part of an HTML id: whatever it holds, letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"


def name_choice(choice: str) -> str:
    """A column's heading for one of the models that clients were tested with."""
    return NAMES.get(choice, choice)
