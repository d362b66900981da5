"""Where clients run. The engines are this package's files, by the name that an experiment writes."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from fedpeft.errors import UserError

if TYPE_CHECKING:
    from fedpeft.engines.base import Engine

_PARTS = ("base", "templates")  # files that are no engine


def list_engines() -> list[str]:
    """The names that `engine:` takes."""
    return sorted(module.name for module in iter_modules(__path__) if module.name not in _PARTS)


def find_engine(name: str) -> "type[Engine]":
    """The engine of a name. Raises UserError when there is none."""
    from fedpeft.engines.base import Engine

    if name not in list_engines():
        raise UserError(f"engine: unknown engine {name!r}; known: {', '.join(list_engines())}")
    module = import_module(f"{__name__}.{name}")
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Engine) and kind.__module__ == module.__name__
    )
