"""Where clients run. The engines are this package's files, by the name that an experiment writes."""

from typing import TYPE_CHECKING

from fedpeft.discovery import find_class, list_files
from fedpeft.errors import UserError

if TYPE_CHECKING:
    from fedpeft.engines.base import Engine

_BY_NAME = {"flower": "flower.deployment", "flower-sim": "flower.simulation"}  # those of a package in this one
_PARTS = ("base", "replicas", "templates", "workers")  # files that are no engine


def list_engines() -> list[str]:
    """The names that `engine:` takes."""
    return sorted([*list_files(__path__, without=_PARTS), *_BY_NAME])


def find_engine(name: str) -> "type[Engine]":
    """The engine of a name. Raises UserError for an unknown name or a file without exactly one engine."""
    from fedpeft.engines.base import Engine

    if name not in list_engines():
        raise UserError(f"engine: unknown engine {name!r}; known: {', '.join(list_engines())}")
    return find_class(__name__, _BY_NAME.get(name, name), Engine, "engine", "engine")
