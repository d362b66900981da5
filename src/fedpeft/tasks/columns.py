"""Single values of a row, checked. Every error names the row's place and the column."""

import math
from collections.abc import Collection
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.values import GAPS, has_control, quote

MAX_LABEL = 200  # characters of a label: tables show it


def read_text(row: Row, column: str) -> str:
    """A text that is not blank, as it stands. Raises UserError."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row['@where']}: expected a text in column {column!r}, received {quote(value)}")
    return value


def read_label(row: Row, column: str, known: Collection[str] = ()) -> str:
    """A label's name without the space around it. Raises UserError where there is none.

    What pandas writes where a value is missing ("nan") is a label only where it is one of the `known`.
    """
    value = _read_value(row, column, "label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps reads 1 as 1.0
    name = str(value).strip()
    if name in GAPS and name not in known:
        raise UserError(
            f"{row['@where']}: the label (column {column!r}) is {name!r}, which stands for a missing value; fill it, "
            "remove the row, or name it in task.labels"
        )
    if len(name) > MAX_LABEL or has_control(name):
        raise UserError(
            f"{row['@where']}: expected a label of one line and at most {MAX_LABEL} characters in column {column!r}, "
            f"received {quote(name)}; is it another column?"
        )
    return name


def read_number(row: Row, column: str) -> float:
    """A finite number. Raises UserError."""
    value = _read_value(row, column, "label")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row['@where']}: expected a number as label, received {quote(value)}")
    return number


def read_answer(row: Row, column: str, name: str = "answer") -> str:
    """The right answer as text, without the space around it; `name` is what an error calls it. Raises UserError."""
    return str(_read_value(row, column, name)).strip()


def _read_value(row: Row, column: str, name: str) -> Any:
    """A single value: no list, nothing blank, no gap of a table of numbers. Raises UserError."""
    value = row[column]
    is_blank = value is None or (isinstance(value, str) and not value.strip())
    if is_blank or (isinstance(value, float) and math.isnan(value)):
        raise UserError(f"{row['@where']}: the {name} (column {column!r}) is empty; fill it or remove the row")
    if isinstance(value, list | tuple | dict | bytes):
        raise UserError(f"{row['@where']}: expected one {name} in column {column!r}, received {quote(value)}")
    return value
