"""What a value of a foreign table is, and how an error shows it."""

import re
from reprlib import Repr
from typing import Any

GAPS = frozenset({"nan", "NaN", "NAN", "NaT", "<NA>"})  # what pandas makes of a missing value when it is text
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, 80, 80, 80


def quote(value: Any) -> str:
    """The value as Python writes it, in about a line however long or nested it is."""
    return _short.repr(value)


def has_control(text: str) -> bool:
    """Whether a text holds line ends, control characters, which act on a terminal, or halves of characters."""
    return _CONTROL.search(text) is not None
