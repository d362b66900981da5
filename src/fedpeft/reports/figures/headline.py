"""The headline: each method's score with its spread, and paired differences."""

from fedpeft.reports.figures.base import (
    Figure,
    Section,
    average,
    count,
    describe_choice,
    describe_seeds,
    get_score_unit,
    name_choice,
)
from fedpeft.reports.figures.differences import FromBest, make_differences
from fedpeft.reports.records import MethodRecord, ReportRecord, RunResult, to_number
from fedpeft.reports.tables import Cell, Column, MeanAndDeviation, Table
from fedpeft.units import MIB


def make_headline(record: ReportRecord, from_best: FromBest | None) -> Section:
    """The table that is cited, and the differences between methods; none without a finished run."""
    methods = [method for method in record.methods if method.results]
    if not methods:
        return Section("scores", "Scores", [])
    figures = [_make_scores(record, methods, from_best)]
    if from_best is not None:
        figures.append(make_differences(record, from_best))
    return Section("scores", "Scores", figures)


def _make_scores(record: ReportRecord, methods: list[MethodRecord], from_best: FromBest | None) -> Figure:
    unit, (first, *others) = get_score_unit(record), record.choices
    columns = [
        Column("method"),
        Column("learning rate", digits=0, is_general=True),
        Column("seeds", digits=0),
        unit.make_column(name_choice(first)),
        unit.make_column("worst client"),
        *([] if from_best is None else [Column("apart from best")]),
        Column("chose trained"),
        *(unit.make_column(name_choice(choice)) for choice in others),
        Column("trained parameters", digits=0),
        Column("down + up", "MiB per client and round", 3, 1 / MIB, "bytes per client and round"),
        Column("quarantined", digits=0),
    ]
    rows = [_make_row(method, first, others, from_best) for method in methods]
    best = max(rows, key=lambda row: row[3].mean if isinstance(row[3], MeanAndDeviation) else float("-inf"))
    clients = count(len(record.clients), "client")
    apart = (
        ""
        if from_best is None
        else ("Apart from best: whether the paired interval of the difference from it leaves out zero. ")
    )
    return Figure(
        "headline",
        f"Test {record.metric}",
        f"{best[0]} {'has the highest mean,' if len(rows) > 1 else 'reaches'} {unit.write(best[3])}.",
        f"Test {record.metric} after the last round, of {describe_choice(first)}, on its own test rows; {clients} "
        f"weighted alike; mean ± standard deviation over {describe_seeds(record)}. The worst client is the lowest of "
        f"each seed. {apart}Chose trained: clients that deploy what their last local training left, over seeds. "
        + " ".join(f"“{name_choice(choice)}”: {describe_choice(choice)}." for choice in others)
        + " Trained parameters: adapter and head of a client. Bytes: as encoded. Quarantined: replies left out of a "
        "round, all seeds together.",
        Table(tuple(columns), tuple(rows)),
        {"type": "dots", "label": 0, "value": 3, "worst": 4, "seeds": _list_seed_scores(methods, first)},
        is_open=True,
    )


def _make_row(method: MethodRecord, first: str, others: list[str], from_best: FromBest | None) -> tuple[Cell, ...]:
    results = method.results
    return (
        method.label,
        to_number(results[0].options.get("lr")),
        len(results),
        _average_scores(results, first, "by_client"),
        _average_scores(results, first, "worst_client"),
        *([] if from_best is None else [from_best.describe(method.label)]),
        _count_choices(results),
        *(_average_scores(results, choice, "by_client") for choice in others),
        add_parameters(results[0]),
        average_bytes(results),
        sum(result.quarantined for result in results),
    )


def _count_choices(results: list[RunResult]) -> str | None:
    choices = [choice for result in results if result.deployment for choice in result.deployment.choices.values()]
    return f"{choices.count('trained')}/{len(choices)}" if choices else None


def add_parameters(result: RunResult) -> int | None:
    """The parameters that a client trains, adapter and head; None where the result does not tell."""
    if result.adapter_parameters is None and result.head_parameters is None:
        return None
    return (result.adapter_parameters or 0) + (result.head_parameters or 0)


def add_bytes(result: RunResult) -> float | None:
    """Bytes down and up per client and round; None where the result does not tell."""
    if result.bytes_down is None or result.bytes_up is None:
        return None
    return result.bytes_down + result.bytes_up


def average_bytes(results: list[RunResult]) -> float | None:
    """Bytes down and up per client and round, over seeds."""
    over_seeds = average([add_bytes(result) for result in results])
    return over_seeds.mean if over_seeds else None


def _average_scores(results: list[RunResult], choice: str, name: str) -> MeanAndDeviation | None:
    return average([to_number(result.test.get(choice, {}).get(name)) for result in results])


def _list_seed_scores(methods: list[MethodRecord], choice: str) -> list[list[float | None]]:
    return [[to_number(r.test.get(choice, {}).get("by_client")) for r in method.results] for method in methods]
