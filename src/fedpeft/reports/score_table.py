"""The table that is cited, of one or several runs and comparisons."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedpeft.errors import UserError, suggest
from fedpeft.reports.collect import collect
from fedpeft.reports.figures.base import get_score_unit
from fedpeft.reports.figures.headline import make_headline
from fedpeft.reports.records import MethodRecord, ReportRecord, RunRecord
from fedpeft.reports.tables import Column, Table, to_csv, to_latex, to_markdown

FORMATS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "latex": to_latex, "markdown": to_markdown}


def write_table(paths: Sequence[Path], form: str, per_client: bool = False) -> str:
    """The scores of runs and comparisons as text in one of FORMATS: a row for each method, or for each client.

    Runs of one method that differ by the seed alone are one row. Raises UserError where a path holds none, runs have
    different metrics or clients, one run is given twice, or none is finished.
    """
    if form not in FORMATS:
        raise UserError(f"--format: use one of {', '.join(FORMATS)}, received {form!r}{suggest(form, FORMATS)}")
    record = _join_records([collect(path) for path in paths])
    if not record.results:
        raise UserError(f"{', '.join(map(str, paths))}: no run is finished yet; there is no score to write")
    return FORMATS[form](_make_client_table(record) if per_client else make_headline(record, None).figures[0].table)


def _join_records(records: Sequence[ReportRecord]) -> ReportRecord:
    first = records[0]
    if len(records) == 1:
        return first
    finished = [record for record in records if record.results]
    for record in finished:
        if record.metric != finished[0].metric:
            raise UserError(
                f"{record.source} has {record.metric}, {finished[0].source} {finished[0].metric}: "
                "one table compares one metric; make two"
            )
        if record.clients != finished[0].clients:
            raise UserError(f"{record.source} and {finished[0].source} have other clients: make a table of each")
    runs: dict[tuple[str, float | None], list[RunRecord]] = {}
    for run in (run for record in records for method in record.methods for run in method.runs):
        same = runs.setdefault((run.label, run.rate), [])
        if run.seed in [other.seed for other in same]:
            raise UserError(f"{run.label} with seed {run.seed} is given twice; leave one of the two out")
        same.append(run)
    labels = [label for label, _ in runs]
    methods = [
        MethodRecord(label if labels.count(label) == 1 else f"{label}, lr {rate:g}", sorted(own, key=lambda r: r.seed))
        for (label, rate), own in runs.items()
    ]
    return replace(first, methods=methods)


def _make_client_table(record: ReportRecord) -> Table:
    unit, choice = get_score_unit(record), record.choices[0]
    methods = [method for method in record.methods if method.results]
    scores = [method.average_client_scores(choice, record.metric) for method in methods]
    columns = (Column("client"), *(unit.make_column(method.label) for method in methods))
    return Table(columns, tuple((client, *(own.get(client) for own in scores)) for client in record.clients))
