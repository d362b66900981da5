"""Classes found by the name of their file: a new one is one new file in its package, and no list to keep."""

from collections.abc import Iterable
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

from fedpeft.errors import UserError


def list_files(path: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """The modules of a package, by its `__path__`, sorted; packages inside it and those named are left out."""
    return sorted(module.name for module in iter_modules(path) if not module.ispkg and module.name not in without)


def find_class(package: str, name: str, base: type[Any], key: str, noun: str) -> type[Any]:
    """The one concrete subclass of `base` that a package's file defines.

    `key` and `noun` are what a message calls the name and the class. Raises UserError for none or several.
    """
    module = import_module(f"{package}.{name}")
    concrete = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, base)
        and kind.__module__ == module.__name__
        and not isabstract(kind)
    ]
    if len(concrete) != 1:
        names = ", ".join(kind.__name__ for kind in concrete) or "none"
        raise UserError(f"{key} {name!r}: {module.__file__} must define one {noun}, received: {names}")
    return concrete[0]
