"""The headline: each method's score with its spread, and paired differences."""

from statistics import mean

from fedpeft.environment import MIB
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
from fedpeft.reports.records import MethodRecord, ReportRecord, RunResult, to_number
from fedpeft.reports.tables import Cell, Column, MeanAndDeviation, Table


def make_headline(record: ReportRecord) -> Section:
    """The table that is cited, and the differences between methods; none without a finished run."""
    methods = [method for method in record.methods if method.results]
    if not methods:
        return Section("scores", "Scores", [])
    figures = [_make_scores(record, methods)]
    if len(methods) > 1:
        figures.append(_make_differences(record, methods))
    return Section("scores", "Scores", figures)


def _make_scores(record: ReportRecord, methods: list[MethodRecord]) -> Figure:
    unit, (first, *others) = get_score_unit(record), record.choices
    columns = [
        Column("method"),
        Column("learning rate", digits=0, is_general=True),
        Column("seeds", digits=0),
        unit.make_column(name_choice(first)),
        unit.make_column("worst client"),
        Column("chose trained"),
        *(unit.make_column(name_choice(choice)) for choice in others),
        Column("trained parameters", digits=0),
        Column("down + up", "MiB per client and round", 3, 1 / MIB, "bytes per client and round"),
        Column("quarantined", digits=0),
    ]
    rows = [_make_row(method, first, others) for method in methods]
    best = max(rows, key=lambda row: row[3].mean if isinstance(row[3], MeanAndDeviation) else float("-inf"))
    clients = count(len(record.clients), "client")
    return Figure(
        "headline",
        f"Test {record.metric}",
        f"{best[0]} {'has the highest mean,' if len(rows) > 1 else 'reaches'} {unit.write(best[3])}.",
        f"Test {record.metric} after the last round, of {describe_choice(first)}, on its own test rows; {clients} "
        f"weighted alike; mean ± standard deviation over {describe_seeds(record)}. The worst client is the lowest of "
        "each seed. Chose trained: clients that deploy what their last local training left, of all, over seeds. "
        + " ".join(f"“{name_choice(choice)}”: {describe_choice(choice)}." for choice in others)
        + " Trained parameters: adapter and head of a client. Bytes: as encoded. Quarantined: replies left out of a "
        "round, all seeds together.",
        Table(tuple(columns), tuple(rows)),
        {"type": "dots", "label": 0, "value": 3, "worst": 4, "seeds": _list_seed_scores(methods, first)},
        is_open=True,
    )


def _make_row(method: MethodRecord, first: str, others: list[str]) -> tuple[Cell, ...]:
    results = method.results
    return (
        method.label,
        to_number(results[0].options.get("lr")),
        len(results),
        _average_scores(results, first, "by_client"),
        _average_scores(results, first, "worst_client"),
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


def _make_differences(record: ReportRecord, methods: list[MethodRecord]) -> Figure:
    """Means of score differences by (seed, client) to the first method, and how the pairs fall."""
    unit, choice, (base, *others) = get_score_unit(record), record.choices[0], methods
    columns = (
        Column("method"),
        unit.make_column(f"minus {base.label}", "points"),
        unit.make_column("lowest seed", "points"),
        unit.make_column("highest seed", "points"),
        Column("pairs better", digits=0),
        Column("pairs equal", digits=0),
        Column("pairs worse", digits=0),
    )
    rows: list[tuple[Cell, ...]] = []
    for method in others:
        by_seed = _pair(method, base, choice, record.metric)
        pairs = [difference for differences in by_seed for difference in differences]
        means = [mean(differences) for differences in by_seed if differences]
        if pairs:
            signs = [sum(d > 0 for d in pairs), sum(d == 0 for d in pairs), sum(d < 0 for d in pairs)]
            rows.append((method.label, mean(pairs), min(means), max(means), *signs))
        else:
            rows.append((method.label, None, None, None, 0, 0, 0))
    higher = sum(isinstance(row[1], float) and row[1] > 0 for row in rows)
    return Figure(
        "differences",
        f"Paired differences to {base.label}",
        f"{higher} of {len(rows)} methods have a higher mean than {base.label} over the same seeds and clients.",
        f"Test {record.metric} of {describe_choice(choice)}, minus that of {base.label}, paired by seed and client; "
        f"{base.label} is the first method of the comparison. Pairs: of one seed and client. The file holds no "
        "intervals, so no difference is called significant here.",
        Table(columns, tuple(rows)),
        {"type": "differences", "label": 0, "value": 1, "low": 2, "high": 3} if len(rows) > 1 else None,
        is_open=len(rows) == 1,
    )


def _pair(method: MethodRecord, base: MethodRecord, choice: str, metric: str) -> list[list[float]]:
    """Differences by client, for each seed that both have."""
    by_seed = {result.seed: result.test_by_client.get(choice, {}) for result in base.results}
    differences = []
    for result in method.results:
        scores, others = result.test_by_client.get(choice, {}), by_seed.get(result.seed, {})
        pairs = [(to_number(own.get(metric)), to_number(others.get(c, {}).get(metric))) for c, own in scores.items()]
        differences.append([a - b for a, b in pairs if a is not None and b is not None])
    return differences
