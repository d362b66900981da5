"""One self-contained HTML page from a record: words and tables written here, charts drawn by what it carries along.

Whatever a client, a label or a setting is called, it is text: escaped in HTML, and in the page's JSON without any `<`.
A content security policy lets only our three scripts run, and nothing be loaded.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

import yaml

from fedpeft import __version__
from fedpeft.reports.figures import Figure, Section, make_sections
from fedpeft.reports.figures.base import count, describe_choice, describe_seeds
from fedpeft.reports.records import ReportRecord, to_number
from fedpeft.reports.tables import (
    Cell,
    MeanAndDeviation,
    Table,
    escape_html,
    to_csv,
    to_html,
    to_json,
    to_latex,
    to_markdown,
)

_ASSETS = files("fedpeft.reports") / "assets"
_SCRIPTS = (("d3-7.9.2.min.js",), ("plot-0.6.17.umd.min.js",), ("charts.js", "report.js"))
_MOST_CELLS = 1_500  # of a table that is offered in every form; a larger one is offered as CSV
_FORMS = (
    ("CSV", "csv", "text/csv", to_csv),
    ("LaTeX", "tex", "text/plain", to_latex),
    ("Markdown", "md", "text/markdown", to_markdown),
    ("JSON", "json", "application/json", to_json),
)


def make_page(record: ReportRecord) -> str:
    """The report as one HTML document."""
    sections = make_sections(record)
    figures = _name_figures(sections)
    scripts = ["\n".join(_read_asset(name) for name in names) for names in _SCRIPTS]
    return Template(_read_asset("template.html")).substitute(
        policy=_make_policy(scripts),
        title=escape_html(f"{record.name}: fedpeft report"),
        style=_read_asset("report.css"),
        kind=record.kind,
        name=escape_html(record.name),
        lead=escape_html(_describe(record)),
        notes=_write_notes(record),
        navigation="".join(f'<li><a href="#{s.id}">{s.title}</a></li>' for s in sections),
        sections="\n".join(map(_write_section, sections, figures)),
        settings=escape_html(_dump_settings(record)),
        environment=_write_environment(record),
        version=__version__,
        source=escape_html(record.source),
        data=_dump_json({name: _make_chart_data(figure) for own in figures for name, figure in own if figure.chart}),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _name_figures(sections: Sequence[Section]) -> list[list[tuple[str, Figure]]]:
    """The figures of each section, every one with an id of its with_ids: labels that differ may give one id."""
    taken: set[str] = set()
    figures = []
    for section in sections:
        with_ids = []
        for figure in section.figures:
            name, number = figure.id, 2
            while name in taken:
                name, number = f"{figure.id}-{number}", number + 1
            taken.add(name)
            with_ids.append((name, figure))
        figures.append(with_ids)
    return figures


def _describe(record: ReportRecord) -> str:
    rounds = max((run.planned_rounds for method in record.methods for run in method.runs), default=0)
    clients = f", {count(len(record.clients), 'client')}" if record.clients else ""
    scenario = f", scenario {record.scenario}" if record.scenario else ""
    over = f"{count(rounds, 'round')}, {describe_seeds(record)}{clients}{scenario}"
    what = count(len(record.methods), "method") if record.kind == "comparison" else record.methods[0].label
    model = record.settings.get("model")
    name = f" on {model['name']}" if isinstance(model, dict) and isinstance(model.get("name"), str) else ""
    scores = f" Scores are of {describe_choice(record.choices[0])}." if record.choices else ""
    return f"{what}{name}: {over}.{scores}"


def _write_notes(record: ReportRecord) -> str:
    data = dict.fromkeys(note for result in record.results for note in result.notes)
    items = "".join(f"<li>{escape_html(note)}</li>" for note in [*record.notes, *data][:50])
    return f'<ul class="notes">{items}</ul>' if items else ""


def _write_section(section: Section, figures: Sequence[tuple[str, Figure]]) -> str:
    written = "".join(_write_figure(name, figure) for name, figure in figures)
    return f'<section id="{section.id}"><h2>{section.title}</h2>\n{written}</section>'


def _write_figure(name: str, figure: Figure) -> str:
    """The words, the place for the chart, and the table: above the chart where the table is the point."""
    title, summary = escape_html(figure.title), escape_html(figure.summary)
    head = f'<figcaption><h3 id="{name}-title">{title}</h3><p class="summary">{summary}</p></figcaption>'
    chart = '<div class="chart"></div><p class="readout" aria-live="polite"></p>' if figure.chart else ""
    caption = f'<p class="caption">{escape_html(figure.caption)}</p>'
    table = _write_table(name, figure, _write_downloads(name, figure.table))
    body = f"{table}{chart}{caption}" if figure.is_open else f"{chart}{caption}{table}"
    focus = ' tabindex="0"' if figure.chart else ""
    return f'<figure id="{name}"{focus} aria-labelledby="{name}-title">{head}{body}</figure>\n'


def _write_table(name: str, figure: Figure, downloads: str) -> str:
    if not figure.shown:
        return downloads
    table = to_html(figure.table, figure.title)
    label = escape_html(f"Numbers of {figure.title}")
    scrolled = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>{downloads}'
    return scrolled if figure.is_open else f"<details><summary>Numbers</summary>{scrolled}</details>"


def _write_downloads(name: str, table: Table) -> str:
    """Links that hold their file: they work without a server and without JavaScript."""
    is_small = len(table.rows) * len(table.columns) <= _MOST_CELLS
    links = [
        f'<a download="{name}.{suffix}" href="data:{kind};charset=utf-8,{quote(convert(table), safe=_URL_SAFE)}">'
        f'{form}<span class="hidden"> of {name}</span></a>'
        for form, suffix, kind, convert in (_FORMS if is_small else _FORMS[:1])
    ]
    return f'<p class="downloads">Download {" ".join(links)}</p>'


_URL_SAFE = ",.:;/=+()[]{}|!*@$-_~"  # of the rest, some ends an address and some an attribute


def _dump_settings(record: ReportRecord) -> str:
    return yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True) if record.settings else "not kept"


def _write_environment(record: ReportRecord) -> str:
    pairs = ((str(name), str(value)) for name, value in record.environment.items() if value is not None)
    items = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>' if items else "<p>not kept</p>"


def _make_chart_data(figure: Figure) -> dict[str, Any]:
    """What report.js draws: the table in six digits, and how."""
    columns = [
        {"name": c.name, "unit": c.unit, "digits": c.digits, "scale": c.scale, "general": c.is_general}
        for c in figure.table.columns
    ]
    rows = [[_shorten(cell) for cell in row] for row in figure.table.rows]
    return {"chart": _shorten_numbers(figure.chart), "summary": figure.summary, "columns": columns, "rows": rows}


def _shorten(cell: Cell) -> Any:
    if isinstance(cell, MeanAndDeviation):
        return {"mean": _shorten(cell.mean), "sd": _shorten(cell.deviation)}
    if isinstance(cell, float):
        number = to_number(cell)
        return None if number is None else float(f"{number:.6g}")
    return cell


def _shorten_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _shorten_numbers(item) for name, item in value.items()}
    return _shorten(value)


def _dump_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _make_policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _read_asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
