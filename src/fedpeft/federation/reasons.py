"""Why clients did not count in a round, in the words that logs, tables and errors show."""

from collections.abc import Mapping

from fedpeft.errors import printable

LIMIT = 240  # characters of one reason, which is written to the log for every client and round
_SHOWN = 3  # clients named beside a reason that several of them share


def describe_error(error: BaseException) -> str:
    """The error's type and message in one short line."""
    return printable(f"{type(error).__name__.lstrip('_')}: {error}", LIMIT)


def group_reasons(reasons: Mapping[str, str]) -> str:
    """`a, b: reason; c: another`: each reason once, with the clients that it holds for, most of them first."""
    clients: dict[str, list[str]] = {}
    for client, reason in sorted(reasons.items()):
        clients.setdefault(reason, []).append(client)
    groups = sorted(clients.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{_name_clients(names)}: {reason}" for reason, names in groups)


def _name_clients(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
