"""Client by client: scores by model, what each holds and was given, quarantines, whose model serves whom."""

from collections import Counter

from fedpeft.reports.figures.base import (
    MOST_CLIENTS,
    Figure,
    Section,
    count,
    describe_choice,
    describe_thinning,
    get_score_unit,
    make_id,
    name_choice,
    take_evenly,
)
from fedpeft.reports.records import MethodRecord, ReportRecord, RunResult, to_number
from fedpeft.reports.tables import Cell, Column, Table

MOST_LABELS = 8  # that a bar is divided into
MOST_QUARANTINES = 200  # lines of the table
_SPLITS = ("train", "validation", "test")


def make_clients(record: ReportRecord) -> Section:
    """Maps of scores, the table of clients, label distributions, cross-evaluations and quarantines."""
    shown = take_evenly(record.clients, MOST_CLIENTS)
    if record.kind == "run":
        figures = [_make_model_map(record, shown)]
    else:
        figures = [_make_method_map(record, choice, shown) for choice in record.choices]
    figures += [_make_holdings(record, shown), _make_labels(record, shown)]
    figures += [_make_cross(record, method) for method in record.methods]
    figures.append(_make_quarantines(record))
    return Section("clients", "Client by client", [figure for figure in figures if figure])


def _make_method_map(record: ReportRecord, choice: str, shown: list[str]) -> Figure | None:
    methods = [method for method in record.methods if any(choice in r.test_by_client for r in method.results)]
    scores = [method.average_client_scores(choice, record.metric) for method in methods]
    rows = tuple((client, *(by_client.get(client) for by_client in scores)) for client in shown)
    return _make_map(record, f"{name_choice(choice)}-scores", name_choice(choice), [m.label for m in methods], rows,
        f"Test {record.metric} of {describe_choice(choice)}, on its own test rows, mean over seeds")  # fmt: skip


def _make_model_map(record: ReportRecord, shown: list[str]) -> Figure | None:
    (method,) = record.methods
    scores = [method.average_client_scores(choice, record.metric) for choice in record.choices]
    rows = tuple((client, *(by_client.get(client) for by_client in scores)) for client in shown)
    models = "; ".join(f"“{name_choice(choice)}”: {describe_choice(choice)}" for choice in record.choices)
    return _make_map(record, "model-scores", "by model", [name_choice(c) for c in record.choices], rows,
        f"Test {record.metric} after the last round, on the client's own test rows. {models}")  # fmt: skip


def _make_map(
    record: ReportRecord, name: str, what: str, headings: list[str], rows: tuple[tuple[Cell, ...], ...], caption: str
) -> Figure | None:
    numbers = [(cell, row[0]) for row in rows for cell in row[1:] if isinstance(cell, float)]
    if not numbers:
        return None
    unit = get_score_unit(record)
    columns = (Column("client"), *(unit.make_column(heading) for heading in headings))
    (low, worst), (high, best) = min(numbers), max(numbers)
    return Figure(
        name,
        f"Test {record.metric} of every client, {what}",
        f"From {unit.write(low)} ({worst}) to {unit.write(high)} ({best}).",
        f"{caption}; {describe_thinning(len(rows), len(record.clients), 'client')}.",
        Table(columns, rows),
        {"type": "map", "x": "method" if record.kind == "comparison" else "model", "y": "client"},
    )


def _make_holdings(record: ReportRecord, shown: list[str]) -> Figure | None:
    """Rows by split, what each client was given, and how often it was left out, over all runs."""
    if not record.results:
        return None
    first = record.results[0]
    left_out = Counter(client for _, _, _, client, _ in _list_quarantines(record))
    columns = (
        Column("client"),
        *(Column(f"{split} rows", digits=0) for split in _SPLITS),
        Column("resources"),
        Column("times left out", digits=0),
    )
    rows: list[tuple[Cell, ...]] = []
    for client in shown:
        sizes = first.rows.get(client, {})
        given = _describe_resources(record, client)
        rows.append((client, *(sizes.get(split) for split in _SPLITS), given, left_out[client]))
    held = [own["train"] for own in first.rows.values() if "train" in own]
    span = "an unknown number of rows"
    if held:
        same = min(held) == max(held)
        span = f"{held[0]:,} training rows each" if same else f"{min(held):,} to {max(held):,} training rows"
    seeds = "" if len({result.seed for result in record.results}) == 1 else f" Rows as divided by seed {first.seed}."
    return Figure(
        "holdings",
        "What each client holds and was given",
        f"{count(len(record.clients), 'client')} with {span}.",
        f"Resources: the settings by which a client's level differs from the method's options.{seeds} Times left out: "
        f"failures and quarantines over all runs; {describe_thinning(len(shown), len(record.clients), 'client')}.",
        Table(columns, tuple(rows)),
        {"type": "stack", "label": 0, "values": [1, 2, 3]},
    )


def _describe_resources(record: ReportRecord, client: str) -> str | None:
    """What the client was given in the first run that gave it anything; "" where that was nothing."""
    given = [result.resources[client] for result in record.results if client in result.resources]
    without_effect = {"density": 1.0, "checkpointing": False}
    words = [
        ", ".join(
            f"{name} {_describe_value(value)}" for name, value in own.items() if value != without_effect.get(name)
        )
        for own in given
    ]
    return next(filter(None, words), "no limits" if given else None)


def _describe_value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower()


def _make_labels(record: ReportRecord, shown: list[str]) -> Figure | None:
    result = next((result for result in record.results if any(result.label_fractions.values())), None)
    if result is None:
        return None
    every, labels = _choose_labels(result)
    columns = [Column("client"), *(Column(label, "%", 1, 100.0) for label in labels)]
    rest = len(every) - len(labels)
    rows: list[tuple[Cell, ...]] = []
    for client in shown:
        own = result.label_fractions.get(client, {})
        cells: list[Cell] = [own.get(label, 0.0) for label in labels]
        rows.append((client, *cells, *([max(0.0, 1 - sum(own.get(label, 0.0) for label in labels))] if rest else [])))
    if rest:
        columns.append(Column(f"{rest} others", "%", 1, 100.0))
    largest = max(((row[1 + i], row[0], label) for row in rows for i, label in enumerate(labels)), key=_sort_key)
    return Figure(
        "labels",
        "Label distribution by client",
        f"The largest part is {columns[1].format(largest[0])} % of {largest[2]}, at {largest[1]}.",
        f"Fraction of each label among a client's training rows, seed {result.seed}; "
        f"{describe_thinning(len(rows), len(record.clients), 'client')}.",
        Table(tuple(columns), tuple(rows)),
        {"type": "stack", "label": 0, "values": list(range(1, len(columns))), "whole": 1.0},
    )


def _choose_labels(result: RunResult) -> tuple[list[str], list[str]]:
    """All labels, and those that get a part of their own: all of a few, of many the most frequent."""
    counts: dict[str, float] = {}
    for client, fractions in result.label_fractions.items():
        for label, fraction in fractions.items():
            counts[label] = counts.get(label, 0.0) + fraction * result.rows.get(client, {}).get("train", 1)
    every = list(counts)
    if len(every) <= MOST_LABELS:
        return every, every
    return every, sorted(every, key=lambda label: -counts[label])[: MOST_LABELS - 1]


def _sort_key(entry: tuple[Cell, ...]) -> float:
    return entry[0] if isinstance(entry[0], float) else 0.0


def _make_cross(record: ReportRecord, method: MethodRecord) -> Figure | None:
    result: RunResult | None = next((result for result in method.results if result.cross), None)
    if result is None:
        return None
    every = sorted(result.cross)
    shown = take_evenly(every, MOST_CLIENTS // 2)
    unit = get_score_unit(record)
    rows = tuple((model, *(to_number(result.cross[model].get(client)) for client in shown)) for model in shown)
    at_home = sum(_is_own_best(result, client) for client in every)
    return Figure(
        f"cross-{make_id(method.label)}",
        f"{method.label}: whose model on whose rows",
        f"{at_home} of {count(len(every), 'client')} are served best by their own model.",
        f"Test {record.metric} of every client's {name_choice(record.choices[0])} model (down) on every client's test "
        f"rows (across), {method.label}, seed {result.seed}; {describe_thinning(len(shown), len(every), 'client')}.",
        Table((Column("model of"), *(unit.make_column(client) for client in shown)), rows),
        {"type": "map", "x": "rows of", "y": "model of"},
    )


def _is_own_best(result: RunResult, client: str) -> bool:
    scores = [to_number(row.get(client)) for row in result.cross.values()]
    own = to_number(result.cross[client].get(client))
    return own is not None and all(score is None or score <= own for score in scores)


def _list_quarantines(record: ReportRecord) -> list[tuple[str, int, int, str, str]]:
    """Method, seed, round, client and reason of every reply that was left out."""
    return [
        (method.label, run.seed, line.round, line.client, line.quarantined)
        for method in record.methods
        for run in method.runs
        for line in run.get_lines("train")
        if line.quarantined is not None
    ]


def _make_quarantines(record: ReportRecord) -> Figure | None:
    lines = _list_quarantines(record)
    if not lines:
        return None
    columns = (Column("method"), Column("seed", digits=0), Column("round", digits=0), Column("client"))
    clients = len({client for _, _, _, client, _ in lines})
    shown = take_evenly(lines, MOST_QUARANTINES)
    return Figure(
        "quarantines",
        "Failures and quarantines",
        f"{count(len(lines), 'reply').replace('replys', 'replies')} of {count(clients, 'client')} left out of a round.",
        "A reply that failed, came too late or was screened out does not enter its round; "
        f"{describe_thinning(len(shown), len(lines), 'line')}.",
        Table((*columns, Column("reason")), tuple(shown)),
        is_open=len(lines) <= 20,
    )
