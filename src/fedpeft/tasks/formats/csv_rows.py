"""CSV whose fields are separated by commas, or by semicolons, tabs or bars where the header has no comma."""

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.formats.header import require_distinct
from fedpeft.tasks.formats.lines import read_lines
from fedpeft.tasks.limits import SizeLimit

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
csv.field_size_limit(2**31 - 1)  # the module's 131,072 characters would refuse a long text; `SizeLimit` bounds it


def read_csv(path: Path, limit: SizeLimit) -> list[Row]:
    """The rows. Every record has as many fields as the header: one separator more would move text into other columns.

    Raises UserError, with the place, for anything else, and what `read_lines` raises.
    """
    lines = _split_at_returns(read_lines(path, limit))
    blank = 0
    first = next(lines, "")
    while first.isspace():
        blank += 1
        first = next(lines, "")
    header: list[str] = []
    rows: list[Row] = []
    begin = blank + 1  # the line that the record at hand begins in
    try:
        separator = _find_separator(first)
        reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
        for fields in reader:
            where, begin = f"{path}:{begin}", blank + reader.line_num + 1
            if not header:
                require_distinct(fields, where)
                header = fields
            elif len(fields) == len(header):
                rows.append(dict(zip(header, fields, strict=True)) | {"@where": where})
            elif fields:  # an empty line has none
                raise UserError(
                    f"task.source: {where}: {len(fields)} fields, the header has {len(header)}; "
                    f"quote texts that contain {_SEPARATORS[separator]}"
                )
    except csv.Error as error:
        raise UserError(f"task.source: {path}:{begin}: not valid CSV ({error}); is every quote closed?") from error
    return rows


def _split_at_returns(lines: Iterable[str]) -> Iterator[str]:
    """The lines, also those that end in a "\\r" alone, as old spreadsheets write them."""
    for line in lines:
        if "\r" in line.removesuffix("\n").removesuffix("\r"):
            yield from io.StringIO(line, newline="")
        else:
            yield line


def _find_separator(header: str) -> str:
    """The first of the separators that divides the header; a comma where none does."""
    for separator in _SEPARATORS:
        if len(next(csv.reader([header], delimiter=separator), [])) > 1:
            return separator
    return ","
