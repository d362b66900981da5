"""JSON lines, one object of columns each, or one JSON array of such objects, as LLM-Adapters' files are."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.formats.lines import read_lines
from fedpeft.tasks.limits import SizeLimit
from fedpeft.tasks.values import quote

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # a surrogate: two of them are a character, one alone is no text


def read_json(path: Path, limit: SizeLimit) -> list[Row]:
    """The rows. Raises UserError, with the place, for what is no JSON or no object, and what `read_lines` raises."""
    lines = ((number, line) for number, line in enumerate(read_lines(path, limit), 1) if line.strip())
    first = next(lines, None)
    if first is None:
        return []
    if first[1].lstrip().startswith("["):
        return _read_array("".join(line for _, line in chain([first], lines)), path)
    return [_read_row(line, f"{path}:{number}") for number, line in chain([first], lines)]


def _read_row(line: str, where: str) -> Row:
    row = _parse(line, where, "; expected one object of columns in each line, or one array of objects")
    if not isinstance(row, dict):
        raise UserError(f"task.source: {where}: expected an object of columns, received {quote(row)}")
    return row | {"@where": where}


def _read_array(text: str, path: Path) -> list[Row]:
    rows = _parse(text, str(path), "")
    no_row = next((row for row in rows if not isinstance(row, dict)), None)
    if no_row is not None:
        raise UserError(f"task.source: {path}: expected objects of columns, received {quote(no_row)}")
    return [row | {"@where": f"{path}, row {i}"} for i, row in enumerate(rows, 1)]


def _parse(text: str, where: str, expected: str) -> Any:
    try:
        value = json.loads(text)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"task.source: {where}: half of a character ({error.object[error.start]!r}), which is no text; "
            "write the whole one or remove it"
        ) from error
    except ValueError as error:
        raise UserError(f"task.source: {where}: not valid JSON ({error}){expected}") from error
    except RecursionError as error:
        raise UserError(f"task.source: {where}: lists or objects nested too deep; give plain columns") from error
    return value
