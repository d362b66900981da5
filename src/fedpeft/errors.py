"""The one exception a user's mistake raises: it carries a single clear line and never shows a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What is wrong, where, the value received, and what to do: one line, printed as is by the command line."""


class NoQuorum(UserError):
    """Too few clients replied usably in a round: most often a learning rate at which training diverges."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a known name is near, else nothing."""
    near = get_close_matches(word, list(known), 1)
    return f", did you mean {near[0]!r}?" if near else ""
