"""The names of the columns of a table."""

from collections.abc import Sequence

from fedpeft.errors import UserError


def require_distinct(names: Sequence[str], where: str) -> None:
    """Raises UserError where two columns have one name. A spreadsheet's columns without a name may be many."""
    seen = set()
    for name in names:
        if name and name in seen:
            raise UserError(f"task.source: {where}: the header holds {name!r} twice; rename one of the two columns")
        seen.add(name)
