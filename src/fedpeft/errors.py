"""The one exception a user's mistake raises: it carries a single clear line and never shows a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

LIMIT = 480  # characters of an error's line
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


class UserError(Exception):
    """What is wrong, where, the value received, and what to do: one line, printed as is by the command line.

    Whatever stands in the message, a file's contents too, the line is `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NoQuorum(UserError):
    """Too few clients replied usably in a round: most often a learning rate at which training diverges."""


def printable(text: str, limit: int = LIMIT) -> str:
    """The text as one line of at most `limit` characters that a terminal only shows.

    Line ends become spaces and control characters their escapes; of a longer text the middle is left out.
    """
    if len(text) > 2 * limit:  # before anything is made of a text of any size
        text = f"{text[:limit]}{text[-limit:]}"
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= limit:
        return line
    end = limit // 3
    return f"{line[: limit - end - 5]} ... {line[len(line) - end :]}"


def preview(value: Any, limit: int = 80) -> str:
    """The value as Python writes it, shortened to `limit` printable characters, whatever its size and nesting."""
    return printable(_REPR.repr(value), limit)


def suggest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a known name is near, else nothing."""
    near = get_close_matches(word, list(known), 1)
    return f", did you mean {near[0]!r}?" if near else ""
