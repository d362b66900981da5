"""One table, written as HTML, CSV, LaTeX or Markdown. Names in it may be anybody's text: each form escapes them."""

import csv
import html
import io
import json
import math
import re
from dataclasses import dataclass, replace

MISSING = "\u2013"  # an en dash, where there is no number
MINUS = "\u2212"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets read as the beginning of a formula
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", MISSING: "--", MINUS: "$-$",
    "·": r"$\cdot$",
    **{c: f"\\{c}" for c in "{}$&#_%"},
}  # fmt: skip


@dataclass(frozen=True)
class MeanAndDeviation:
    """A mean over seeds with its standard deviation, None where there is one seed."""

    mean: float
    deviation: float | None = None


Cell = str | float | int | MeanAndDeviation | None


@dataclass(frozen=True)
class Column:
    """A heading, its unit, and how readers see its numbers: times `scale`, with `digits` after the point.

    `digits` is None for text; `raw_unit` is the unit of a number before it is scaled.
    """

    name: str
    unit: str = ""
    digits: int | None = None
    scale: float = 1.0
    raw_unit: str = ""
    is_general: bool = False  # as many digits as the number needs, for learning rates

    @property
    def heading(self) -> str:
        """The name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def format(self, cell: Cell) -> str:
        """A cell as readers see it."""
        if isinstance(cell, MeanAndDeviation):
            deviation = "" if cell.deviation is None else f" ± {self.format(cell.deviation)}"
            return self.format(cell.mean) + deviation
        if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
            return MISSING
        if isinstance(cell, str):
            return cell
        text = f"{cell:g}" if self.is_general else f"{cell * self.scale:,.{self.digits or 0}f}"
        return text.replace("-", MINUS)


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns. Cells hold the numbers as they are in the result files, unscaled."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def split_deviations(self) -> "Table":
        """The same table in which a deviation has a column of its own, after the mean's."""
        wide = [any(isinstance(row[i], MeanAndDeviation) for row in self.rows) for i in range(len(self.columns))]
        columns: list[Column] = []
        for column, is_wide in zip(self.columns, wide, strict=True):
            columns.append(column)
            if is_wide:
                columns.append(replace(column, name=f"{column.name}, sd"))
        rows = []
        for row in self.rows:
            cells: list[Cell] = []
            for cell, is_wide in zip(row, wide, strict=True):
                if isinstance(cell, MeanAndDeviation):
                    cells += [cell.mean, cell.deviation]
                else:
                    cells += [cell, None] if is_wide else [cell]
            rows.append(tuple(cells))
        return Table(tuple(columns), tuple(rows))


def to_csv(table: Table) -> str:
    """The table as CSV with unscaled numbers in full precision; a text that begins like a formula gets a quote."""
    flat = table.split_deviations()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_quote_formula(_unscaled_heading(column)) for column in flat.columns)
    for row in flat.rows:
        writer.writerow(_quote_formula(cell) if isinstance(cell, str) else _write_number(cell) for cell in row)
    return out.getvalue()


def to_latex(table: Table) -> str:
    """The table as a LaTeX tabular for the package booktabs."""
    alignment = "".join("l" if column.digits is None else "r" for column in table.columns)
    lines = [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule", _join_latex([c.heading for c in table.columns])]
    lines += ["\\midrule", *(_join_latex(cells) for cells in _format_rows(table)), "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def to_markdown(table: Table) -> str:
    """The table in Markdown's pipe form."""
    rule = ["---" if column.digits is None else "---:" for column in table.columns]
    head = [_escape_markdown(column.heading) for column in table.columns]
    rows = ([_escape_markdown(cell) for cell in cells] for cells in _format_rows(table))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))


def to_json(table: Table) -> str:
    """The table as JSON: the names of its columns, and rows of unscaled numbers; null where there is none."""
    flat = table.split_deviations()
    rows = [[None if isinstance(c, float) and not math.isfinite(c) else c for c in row] for row in flat.rows]
    return json.dumps({"columns": [_unscaled_heading(column) for column in flat.columns], "rows": rows})


def to_html(table: Table, caption: str) -> str:
    """The table in HTML; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col"{_css_class(c)}>{_format_heading(c)}</th>' for c in table.columns)
    body = "".join(f"<tr>{_format_html_row(table.columns, cells)}</tr>\n" for cells in _format_rows(table))
    return (
        f"<table><caption>{escape_html(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def escape_html(text: str) -> str:
    """The text for HTML's content and attributes, with control characters and direction marks made visible."""
    return html.escape(_show_controls(text))


def escape_latex(text: str) -> str:
    """The text for LaTeX, on one line."""
    return "".join(_LATEX.get(c, c) for c in _show_controls(re.sub(r"\s+", " ", text)))


def _show_controls(text: str) -> str:
    """The text with what does not print, but line ends, as its escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _escape_markdown(text: str) -> str:
    shown = _show_controls(re.sub(r"\s+", " ", text))
    return re.sub(r"([\\`*_\[\]<>|&$#~])", r"\\\1", shown)


def _format_rows(table: Table) -> list[list[str]]:
    return [[column.format(cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows]


def _format_html_row(columns: tuple[Column, ...], cells: list[str]) -> str:
    first, *others = (escape_html(cell) for cell in cells)
    numbers = (f"<td{_css_class(column)}>{cell}</td>" for column, cell in zip(columns[1:], others, strict=True))
    return f'<th scope="row">{first}</th>{"".join(numbers)}'


def _format_heading(column: Column) -> str:
    unit = f' <span class="unit">{escape_html(column.unit)}</span>' if column.unit else ""
    return escape_html(column.name) + unit


def _css_class(column: Column) -> str:
    return "" if column.digits is None else ' class="number"'


def _join_latex(cells: list[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def _unscaled_heading(column: Column) -> str:
    return column.heading if column.scale == 1 else replace(column, unit=column.raw_unit).heading


def _quote_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write_number(cell: Cell) -> str:
    return "" if cell is None else repr(cell)
