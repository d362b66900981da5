"""Single values of a row, checked. Every error names the row's place and the column."""

import math

from fedpeft.errors import UserError
from fedpeft.tasks.files import Row


def read_text(row: Row, column: str) -> str:
    """A text that is not blank, as it stands. Raises UserError."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row['@where']}: expected a text in column {column!r}, received {value!r}")
    return value


def read_label(row: Row, column: str) -> str:
    """A label's name without the space around it. Raises UserError where there is none."""
    value = row[column]
    if value is None or str(value).strip() == "":
        raise UserError(f"{row['@where']}: the label (column {column!r}) is empty; fill it or remove the row")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps reads 1 as 1.0
    return str(value).strip()


def read_number(row: Row, column: str) -> float:
    """A finite number. Raises UserError."""
    value = read_label(row, column)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row['@where']}: expected a number as label, received {value!r}")
    return number


def read_answer(row: Row, column: str, name: str = "answer") -> str:
    """The right answer as text, without the space around it; `name` is what an error calls it. Raises UserError."""
    answer = "" if row[column] is None else str(row[column]).strip()
    if not answer:
        raise UserError(f"{row['@where']}: the {name} (column {column!r}) is empty; fill it or remove the row")
    return answer
