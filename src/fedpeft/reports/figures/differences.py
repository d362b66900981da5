"""Differences between methods, paired by seed and client, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedpeft.analysis.paired import Interval, Scores, estimate_difference, pair_scores
from fedpeft.reports.figures.base import Figure, average, describe_choice, get_score_unit
from fedpeft.reports.records import MethodRecord, ReportRecord, to_number
from fedpeft.reports.tables import Cell, Column, Table


@dataclass(frozen=True)
class OtherMethod:
    """How a method stands beside the best: the interval of best minus it, and its pairs by who is better."""

    interval: Interval | None  # None where they have no seed and client in common
    better: int
    equal: int
    worse: int


@dataclass(frozen=True)
class FromBest:
    """The method with the highest mean, and every other one beside it, by label."""

    best: str
    mean: float
    others: Mapping[str, OtherMethod]

    def get_range(self, label: str) -> tuple[float | None, float | None]:
        """Where a method's score lies beside the best one's mean, by the paired interval of 95 %."""
        interval = self.others[label].interval if label in self.others else None
        return (None, None) if interval is None else (self.mean - interval.high, self.mean - interval.low)

    def describe(self, label: str) -> str | None:
        """Whether a method is told apart from the best one; None where nothing says it."""
        if label == self.best:
            return "best"
        interval = self.others[label].interval if label in self.others else None
        return None if interval is None else "no" if interval.crosses_zero else "yes"


def compare_with_best(record: ReportRecord) -> FromBest | None:
    """Every method of a record beside the best of them; None without two methods that have a result."""
    methods = [method for method in record.methods if method.results]
    if len(methods) < 2:
        return None
    choice = record.choices[0]
    best = max(methods, key=lambda method: _get_mean(method, choice))
    others = {other.label: _compare(best, other, choice, record.metric) for other in methods if other is not best}
    return FromBest(best.label, _get_mean(best, choice), others)


def _compare(best: MethodRecord, other: MethodRecord, choice: str, metric: str) -> OtherMethod:
    differences = pair_scores(_read_scores(best, choice, metric), _read_scores(other, choice, metric))
    pairs = np.concatenate([*differences, np.empty(0)])
    return OtherMethod(
        estimate_difference(differences), int((pairs > 0).sum()), int((pairs == 0).sum()), int((pairs < 0).sum())
    )


def make_differences(record: ReportRecord, from_best: FromBest) -> Figure:
    """The method with the highest mean minus every other one, by (seed, client), with intervals of 95 %."""
    unit, choice, best = get_score_unit(record), record.choices[0], from_best.best
    columns = (
        Column("method"),
        unit.make_column(f"{best} minus it", "points"),
        unit.make_column("low", "points"),
        unit.make_column("high", "points"),
        Column("interval crosses zero"),
        Column("seeds", digits=0),
        Column("pairs better", digits=0),
        Column("pairs equal", digits=0),
        Column("pairs worse", digits=0),
    )
    rows = tuple(_make_row(label, other) for label, other in from_best.others.items())
    known = [row for row in rows if row[4] is not None]
    apart = sum(row[4] == "no" for row in known)
    return Figure(
        "differences",
        f"Paired differences from {best}",
        f"{best} has the highest mean, and is told apart from {apart} of {len(rows)} other methods.",
        f"Test {record.metric} of {describe_choice(choice)}, {best} minus the other, paired by seed and client: "
        "the mean over seeds of the mean over clients, with bootstrap intervals of 95 % over seeds and, within them, "
        "clients. An interval that crosses zero does not tell which of the two is better. With one seed it says "
        "nothing of other divisions of the data, with three to five it is somewhat short, and it is no correction for "
        "the number of methods. Pairs: of one seed and client.",
        Table(columns, rows),
        {"type": "differences", "label": 0, "value": 1, "low": 2, "high": 3} if len(rows) > 1 else None,
        is_open=len(rows) == 1,
    )


def _make_row(label: str, other: OtherMethod) -> tuple[Cell, ...]:
    interval = other.interval
    if interval is None:
        return (label, None, None, None, None, 0, 0, 0, 0)
    crosses, signs = "yes" if interval.crosses_zero else "no", (other.better, other.equal, other.worse)
    return (label, interval.mean, interval.low, interval.high, crosses, interval.seeds, *signs)


def _get_mean(method: MethodRecord, choice: str) -> float:
    over_seeds = average([to_number(result.test.get(choice, {}).get("by_client")) for result in method.results])
    return over_seeds.mean if over_seeds else float("-inf")


def _read_scores(method: MethodRecord, choice: str, metric: str) -> Scores:
    return {
        result.seed: {
            client: number
            for client, own in result.test_by_client.get(choice, {}).items()
            if (number := to_number(own.get(metric))) is not None
        }
        for result in method.results
    }
