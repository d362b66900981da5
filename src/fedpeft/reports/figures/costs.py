"""What a score costs: bytes, parameters, seconds, memory; and what was tried on validation."""

from collections.abc import Callable
from statistics import mean

from fedpeft.analysis.cost_to_target import find_front
from fedpeft.analysis.rate_search import find_edge
from fedpeft.reports.figures.base import Figure, Section, average, count, describe_choice, get_score_unit
from fedpeft.reports.figures.differences import FromBest
from fedpeft.reports.figures.headline import add_bytes, add_parameters
from fedpeft.reports.records import MethodRecord, ReportRecord, RunResult, to_number
from fedpeft.reports.tables import Cell, Column, MeanAndDeviation, Table
from fedpeft.units import MIB

_PARTS = ("train", "aggregate", "evaluate")


def make_costs(record: ReportRecord, from_best: FromBest | None) -> Section:
    """Scores against bytes and parameters where there is something to compare, and where time and memory went."""
    methods = [method for method in record.methods if method.results]
    figures: list[Figure] = []
    if from_best is not None:
        sent = Column("down + up", "MiB per client and round", 4, 1 / MIB, "bytes per client and round")
        words = "bytes down and up of a client in a round, as encoded, mean over seeds"
        figures.append(_make_tradeoff(record, methods, from_best, "bytes", "bytes", sent, words, add_bytes))
        trained = Column("trained parameters", digits=0)
        words = "parameters of adapter and head that a client trains, mean over clients"
        what = "trained parameters"
        figures.append(_make_tradeoff(record, methods, from_best, "parameters", what, trained, words, add_parameters))
        figures += [_make_target(record)] if record.targets else []
    if methods:
        figures += [_make_seconds(methods), _make_memory(methods)]
    if record.tuned:
        figures.append(_make_tuning(record))
    return Section("costs", "What it costs", figures)


def _make_tradeoff(
    record: ReportRecord,
    methods: list[MethodRecord],
    from_best: FromBest,
    name: str,
    what: str,
    column: Column,
    words: str,
    measure: Callable[[RunResult], float | None],
) -> Figure:
    """Score against a cost; a method is on the front where none scores at least as much for less."""
    unit, choice = get_score_unit(record), record.choices[0]
    points: list[tuple[str, float | None, MeanAndDeviation | None]] = []
    for method in methods:
        cost = average([measure(result) for result in method.results])
        scores = [to_number(result.test.get(choice, {}).get("by_client")) for result in method.results]
        points.append((method.label, cost.mean if cost else None, average(scores)))
    free = "; what costs nothing stands in the table only" if any(cost == 0 for _, cost, _ in points) else ""
    front = find_front([(cost, score.mean if score else None) for _, cost, score in points])
    on_front = [label for (label, _, _), is_on in zip(points, front, strict=True) if is_on]
    rows = tuple(
        (*point, *from_best.get_range(point[0]), "yes" if is_on else "no")
        for point, is_on in zip(points, front, strict=True)
    )
    shown = ", ".join(on_front[:6]) + (" and others" if len(on_front) > 6 else "")
    return Figure(
        f"tradeoff-{name}",
        f"Test {record.metric} against {what}",
        f"On the front: {shown}." if on_front else "No method has both a score and a cost.",
        f"Across: {words}, on a logarithmic scale{free}. Up: test {record.metric} of {describe_choice(choice)}, mean "
        f"over seeds; bars: where it lies beside {from_best.best}'s, by the paired interval of 95 % of the difference. "
        "On the front: no other method scores at least as much for at most the same cost.",
        Table(
            (Column("method"), column, *map(unit.make_column, ("score", "low", "high")), Column("on the front")), rows
        ),
        {"type": "tradeoff", "label": 0, "x": 1, "y": 2, "low": 3, "high": 4, "front": 5},
    )


def _make_target(record: ReportRecord) -> Figure:
    """Costs until the highest final validation score that a method has, or the experiment's own target."""
    own = record.settings.get("target")
    name = next((key for key in record.targets if own is not None and key == f"{own:g}"), "")
    name = name or max(record.targets, key=lambda key: record.targets[key].score)
    target, unit = record.targets[name], get_score_unit(record)
    columns = (
        Column("method"),
        Column("seeds that reach it"),
        Column("rounds", digits=1),
        Column("bytes of all clients", "MiB", 3, 1 / MIB, "bytes"),
        Column("client seconds", "s", 1),
        Column("peak", "MiB", 0),
    )
    rows = tuple(
        (label, f"{own.reached}/{own.seeds}", own.round, own.bytes, own.client_seconds, own.peak_memory_mib)
        for label, own in target.methods.items()
    )
    reached = sum(own.reached == own.seeds for own in target.methods.values())
    return Figure(
        "cost-to-target",
        "Cost to target",
        f"{reached} of {count(len(rows), 'method')} reach {unit.write(target.score)} with every seed.",
        f"What each method cost until its validation {record.metric} first reached {unit.write(target.score)}"
        + (f", {name}'s in its last round, seed by seed" if name in target.methods else "")
        + "; means over the seeds that reach it. Bytes down and up and seconds of all clients, from the first round "
        "on; peak memory of the whole process. compare.json holds the same for every method's final score.",
        Table(columns, rows),
        is_open=True,
    )


def _make_seconds(methods: list[MethodRecord]) -> Figure:
    columns = tuple(Column(name, "s", 1) for name in ("training", "aggregation", "evaluation", "other", "in all"))
    rows: list[tuple[Cell, ...]] = []
    for method in methods:
        parts = [mean(result.seconds.get(part, 0.0) for result in method.results) for part in _PARTS]
        total = mean(result.seconds.get("total", 0.0) for result in method.results)
        rows.append((method.label, *parts, max(0.0, total - sum(parts)), max(total, sum(parts))))
    slowest = max(rows, key=lambda row: to_number(row[5]) or 0.0)
    return Figure(
        "seconds",
        "Where the time went",
        f"{slowest[0]} took {'the longest, ' if len(rows) > 1 else ''}{columns[0].format(slowest[5])} s.",
        "Wall-clock seconds of a whole run on the machine named below, mean over seeds: clients' training, aggregation "
        "on the server, evaluation on validation and test rows, and everything else (logs, checkpoints).",
        Table((Column("method"), *columns), tuple(rows)),
        {"type": "stack", "label": 0, "values": [1, 2, 3, 4]},
    )


def _make_memory(methods: list[MethodRecord]) -> Figure:
    peaks = [[r.peak_memory_mib for r in m.results if r.peak_memory_mib is not None] for m in methods]
    rows = tuple((method.label, max(peak, default=None)) for method, peak in zip(methods, peaks, strict=True))
    known = [(peak, label) for label, peak in rows if peak is not None]
    summary = f"{max(known)[1]} peaks at {max(known)[0]:,.0f} MiB." if known else "No peak was measured."
    return Figure(
        "memory",
        "Peak memory",
        summary,
        "Peak memory of the whole process, libraries and weights included, the highest of the seeds; on CPU resident "
        "memory.",
        Table((Column("method"), Column("peak", "MiB", 0)), rows),
        {"type": "stack", "label": 0, "values": [1]},
    )


def _make_tuning(record: ReportRecord) -> Figure:
    unit = get_score_unit(record)
    columns = (Column("method"), Column("learning rate"), unit.make_column("validation"), Column("chosen"))
    chosen = {m.label: to_number(m.results[0].options.get("lr")) for m in record.methods if m.results}
    rows = tuple(
        (label, rate, score, _describe_chosen(scores, rate) if chosen.get(label) == _read_rate(rate) else "")
        for label, scores in record.tuned.items()
        for rate, score in scores.items()
    )
    return Figure(
        "tuning",
        "Learning rates that were tried",
        f"{count(len(rows), 'rate')} for {count(len(record.tuned), 'method')}; the test rows play no part in it.",
        f"Validation {record.metric} in the last round of the first seed, clients weighted alike; a rate without a "
        "score is one at which training failed. Where the chosen rate is the lowest or the highest tried, a better one "
        "may lie beyond.",
        Table(columns, rows),
        is_open=len(rows) <= 12,
    )


def _describe_chosen(scores: dict[str, float | None], rate: str) -> str:
    rates = {number: None for name in scores if (number := _read_rate(name)) is not None}
    chosen = _read_rate(rate)
    edge = None if chosen is None else find_edge(rates, chosen)
    return f"yes, the {edge} tried" if edge else "yes"


def _read_rate(rate: str) -> float | None:
    try:
        return float(rate)
    except ValueError:
        return None
