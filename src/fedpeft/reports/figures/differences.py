"""Differences between methods, paired by seed and client, with intervals."""

from fedpeft.analysis.paired import Interval, Scores, estimate_difference, pair_scores
from fedpeft.reports.figures.base import Figure, average, describe_choice, get_score_unit
from fedpeft.reports.records import MethodRecord, ReportRecord, to_number
from fedpeft.reports.tables import Cell, Column, Table


def make_differences(record: ReportRecord, methods: list[MethodRecord]) -> Figure:
    """The method with the highest mean minus every other one, by (seed, client), with intervals of 95 %."""
    unit, choice = get_score_unit(record), record.choices[0]
    best = max(methods, key=lambda method: _get_mean(method, choice))
    columns = (
        Column("method"),
        unit.make_column(f"{best.label} minus it", "points"),
        unit.make_column("low", "points"),
        unit.make_column("high", "points"),
        Column("interval crosses zero"),
        Column("seeds", digits=0),
        Column("pairs better", digits=0),
        Column("pairs equal", digits=0),
        Column("pairs worse", digits=0),
    )
    rows = tuple(_make_row(best, other, choice, record.metric) for other in methods if other is not best)
    known = [row for row in rows if row[4] is not None]
    apart = sum(row[4] == "no" for row in known)
    return Figure(
        "differences",
        f"Paired differences from {best.label}",
        f"{best.label} has the highest mean, and is told apart from {apart} of {len(rows)} other methods.",
        f"Test {record.metric} of {describe_choice(choice)}, {best.label} minus the other, paired by seed and client: "
        "the mean over seeds of the mean over clients, with bootstrap intervals of 95 % over seeds and, within them, "
        "clients. An interval that crosses zero does not tell which of the two is better. With one seed it says "
        "nothing of other divisions of the data, with three to five it is somewhat short, and it is no correction for "
        "the number of methods. Pairs: of one seed and client.",
        Table(columns, rows),
        {"type": "differences", "label": 0, "value": 1, "low": 2, "high": 3} if len(rows) > 1 else None,
        is_open=len(rows) == 1,
    )


def _make_row(best: MethodRecord, other: MethodRecord, choice: str, metric: str) -> tuple[Cell, ...]:
    differences = pair_scores(_read_scores(best, choice, metric), _read_scores(other, choice, metric))
    interval: Interval | None = estimate_difference(differences)
    if interval is None:
        return (other.label, None, None, None, None, 0, 0, 0, 0)
    pairs = [value for values in differences for value in values]
    signs = (sum(d > 0 for d in pairs), sum(d == 0 for d in pairs), sum(d < 0 for d in pairs))
    crosses = "yes" if interval.crosses_zero else "no"
    return (other.label, interval.mean, interval.low, interval.high, crosses, interval.seeds, *map(int, signs))


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
