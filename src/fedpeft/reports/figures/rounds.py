"""What happened over the rounds: scores, losses, and what clients reported of themselves."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fedpeft.reports.figures.base import (
    MOST_CLIENTS,
    MOST_ROUNDS,
    Figure,
    ScoreUnit,
    Section,
    count,
    describe_choice,
    describe_seeds,
    describe_thinning,
    get_score_unit,
    make_id,
    take_evenly,
)
from fedpeft.reports.records import LogLine, MethodRecord, ReportRecord, RunRecord, to_number
from fedpeft.reports.tables import Cell, Column, Table

_VALIDATED = ("received", "personal")  # in every round; `personal` is its name in logs of earlier versions
ByRound = dict[int, dict[str, float]]  # numbers by client
_EVERYWHERE = (  # what every reply tells, and what the server adds
    "examples", "loss", "bytes_down", "bytes_up", "clipped", "retried", "excluded_until",
)  # fmt: skip
MOST_PANELS_WITH_OTHERS = 12  # as in charts.js
_MOST_SCALARS = 12  # maps of one method
_MOST_NUMBERS = 40_000  # of the table of all clients' scores in all rounds

SCALARS = {
    "mixing_weight": (
        "λ by client and round",
        "λ (mixing_weight) is how much a client takes of what it receives: 0 keeps its own parameters, 1 takes the "
        "others'.",
    ),
    "cluster": (
        "Cluster by client and round",
        "The cluster whose model the client has; where it has parts of several, the one with the largest.",
    ),
}
_SAID_BY = {"train": "As reported in the round, before aggregation", "server": "As the server has it after the round"}
_RESPONSIBILITY = re.compile(r"responsibility_(\d+)")


def _describe_scalar(name: str) -> tuple[str, str]:
    """Title and meaning of a scalar that has no entry of its own."""
    if cluster := _RESPONSIBILITY.fullmatch(name):
        return (
            f"Responsibility of cluster {cluster[1]} by client and round",
            f"How large a part of cluster {cluster[1]}'s model a client has: 0 none, 1 nothing else. A client's "
            "responsibilities add up to 1.",
        )
    return f"{name} by client and round", f"{name} is what the client reported."


def make_rounds(record: ReportRecord) -> Section:
    """Scores over rounds, maps of what clients reported, and all scores by client for download."""
    validated = [_read_method(method, record.metric) for method in record.methods]
    figures = [_make_course(record, validated)]
    for method in record.methods:
        run = next((run for run in method.runs if run.log), None)
        if run is not None:
            for split in _SAID_BY:
                figures += [_make_scalar_map(method, run, split, name) for name in _list_scalars(run, split)]
    figures.append(_make_all_scores(record, validated))
    return Section("rounds", "Over the rounds", [figure for figure in figures if figure])


@dataclass(frozen=True)
class Validated:
    """A method's validation scores by round and client, for each seed, and the model that was validated."""

    label: str
    model: str
    seeds: list[tuple[int, ByRound]]
    losses: list[ByRound]  # of training


def _read_method(method: MethodRecord, metric: str) -> Validated:
    lines = [[line for line in run.get_lines("validation") if metric in line.names] for run in method.runs]
    models = {_get_model(line) for own in lines for line in own}
    model = next((choice for choice in _VALIDATED if choice in models), min(models, default="received"))
    scores = [_group(own, metric, model) for own in lines]
    seeds = [(run.seed, by_round) for run, by_round in zip(method.runs, scores, strict=True)]
    return Validated(method.label, model, seeds, [_group(run.get_lines("train"), "loss") for run in method.runs])


def _get_model(line: LogLine) -> str:
    return str((line.model_extra or {}).get("model", "received"))


def _group(lines: Iterable[LogLine], name: str, model: str | None = None) -> ByRound:
    by_round: ByRound = defaultdict(dict)
    for line in lines:
        number = line.get_number(name)
        if number is not None and (model is None or _get_model(line) == model):
            by_round[line.round][line.client] = number
    return dict(by_round)


def _make_course(record: ReportRecord, validated: list[Validated]) -> Figure | None:
    unit = get_score_unit(record)
    columns = (
        Column("method"),
        Column("round", digits=0),
        unit.make_column("mean"),
        unit.make_column("lowest seed"),
        unit.make_column("highest seed"),
        unit.make_column("worst client"),
        Column("training loss", digits=4),
    )
    rows = [row for method in validated for row in _average_rounds(method)]
    if not rows:
        return None
    last = {row[0]: row for row in rows}  # of each method
    best = max(last.values(), key=lambda row: to_number(row[2]) or 0.0)
    band = "; band: lowest to highest seed" if any(len(method.runs) > 1 for method in record.methods) else ""
    grey = "; grey: the other methods" if 1 < len(record.methods) <= MOST_PANELS_WITH_OTHERS else ""
    return Figure(
        "course",
        f"Validation {record.metric} over the rounds",
        f"{best[0]} ends {'highest, ' if len(last) > 1 else ''}at {unit.write(best[2])}, in round {best[1]}.",
        f"Validation {record.metric} of {describe_choice(validated[0].model)}, after the round, on its own validation "
        f"rows; clients weighted alike. Line: mean over {describe_seeds(record)}{band}; dashed: the worst client, mean "
        f"over seeds{grey}. At most {MOST_ROUNDS} rounds of each method are shown.",
        Table(columns, tuple(rows)),
        {"type": "course", "series": 0, "x": 1, "y": 2, "low": 3, "high": 4, "worst": 5},
    )


def _average_rounds(method: Validated) -> list[tuple[Cell, ...]]:
    """Rows of the course of one method, over the seeds that were evaluated in a round."""
    label, seeds = method.label, [by_round for _, by_round in method.seeds]
    rounds = sorted({round_ for by_round in seeds for round_ in by_round})
    rows: list[tuple[Cell, ...]] = []
    for round_ in take_evenly(rounds, MOST_ROUNDS):
        scores = [list(by_round[round_].values()) for by_round in seeds if round_ in by_round]
        loss = [mean(by_round[round_].values()) for by_round in method.losses if by_round.get(round_)]
        means, worst = [mean(values) for values in scores], mean(min(values) for values in scores)
        rows.append((label, round_, mean(means), min(means), max(means), worst, mean(loss) if loss else None))
    return rows


def _list_scalars(run: RunRecord, split: str) -> list[str]:
    """The names of what was said of clients in some round beyond examples and loss, sorted."""
    names = {name for line in run.get_lines(split) for name in line.names if line.get_number(name) is not None}
    return sorted(names.difference(_EVERYWHERE))[:_MOST_SCALARS]


def _make_scalar_map(method: MethodRecord, run: RunRecord, split: str, name: str) -> Figure:
    by_round = _group(run.get_lines(split), name)
    rounds = take_evenly(sorted(by_round), MOST_ROUNDS)
    every = sorted({client for numbers in by_round.values() for client in numbers})
    clients = take_evenly(every, MOST_CLIENTS)
    title, meaning = SCALARS.get(name) or _describe_scalar(name)
    rows = tuple((client, *(_shorten(by_round[round_].get(client)) for round_ in rounds)) for client in clients)
    numbers = [number for row in rows for number in row[1:] if isinstance(number, float)]
    digits = 0 if all(number.is_integer() for number in numbers) else 2
    is_constant = min(numbers) == max(numbers)
    span = f"From {min(numbers):g} to {max(numbers):g}, {mean(numbers):.3g} on average."
    return Figure(
        f"scalar-{make_id(method.label)}-{make_id(name)}",
        f"{method.label}: {title}",
        f"Always {numbers[0]:g}." if is_constant else span,
        f"{meaning} {_SAID_BY[split]}, {method.label}, seed {run.seed}; "
        f"{describe_thinning(len(rounds), len(by_round), 'round')}, "
        f"{describe_thinning(len(clients), len(every), 'client')}.",
        Table((Column("client"), *(Column(str(round_), digits=digits) for round_ in rounds)), rows),
        None if is_constant else {"type": "map", "x": "round", "y": "client"},
    )


def _make_all_scores(record: ReportRecord, validated: list[Validated]) -> Figure | None:
    """Every client's validation score in every round, as a table to download."""
    unit = get_score_unit(record)
    read = [(method.label, seed, by_round) for method in validated for seed, by_round in method.seeds]
    lines = [(label, seed, client, by) for label, seed, by in read for client in _list_clients(by)]
    every = sorted({round_ for _, _, by in read for round_ in by})
    if not lines:
        return None
    rounds = take_evenly(every, max(2, min(len(every), _MOST_NUMBERS // len(lines))))
    columns = (Column("method"), Column("seed", digits=0), Column("client"), *_make_round_columns(unit, rounds))
    rows: list[tuple[Cell, ...]] = [
        (label, seed, client, *(_shorten(by.get(r, {}).get(client)) for r in rounds))
        for label, seed, client, by in lines
    ]
    most = take_evenly(rows, _MOST_NUMBERS // 2)
    return Figure(
        "all-scores",
        f"Validation {record.metric} of every client in every round",
        f"{count(len(lines), 'line')} of {count(len(rounds), 'round')}.",
        f"One line per method, seed and client; {describe_thinning(len(rounds), len(every), 'round')}, "
        f"{describe_thinning(len(most), len(rows), 'line')}. In six digits; the run's metrics.jsonl holds all.",
        Table(columns, tuple(most)),
        shown=False,
    )


def _make_round_columns(unit: ScoreUnit, rounds: list[Any]) -> list[Column]:
    return [unit.make_column(f"round {round_}") for round_ in rounds]


def _shorten(number: float | None) -> float | None:
    """The number in six digits: a page of 50 rounds of 50 clients would be large with all of them."""
    return None if number is None else float(f"{number:.6g}")


def _list_clients(by_round: ByRound) -> list[str]:
    return sorted({client for numbers in by_round.values() for client in numbers})
