"""The methods: one file per published method, under the name that a user writes; `common/` is what they share.

A new method is one new file in this folder with one subclass of `fedpeft.federation.method.Method`. A package adds its
own through the entry-point group `fedpeft.methods` (name = "module:Class"), a program by `register_method`. No method
imports another one.

Provenance marks in docstrings and comments say where a rule comes from:

- [paper]: read in the paper, or in a reliable account of it; "the paper's" in prose means the same
- [code]: read in the authors' released code
- [derived]: follows by arithmetic from the paper, or was measured
- [choice], [ours]: ours, because the sources are silent or because it serves our users better
"""

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedpeft.discovery import find_class, list_files
from fedpeft.errors import UserError, preview
from fedpeft.federation.method import Method

GROUP = "fedpeft.methods"  # of entry points
M = TypeVar("M", bound=Method[Any])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_registered: dict[str, type[Method[Any]]] = {}


def list_built_in() -> list[str]:
    """The names of the methods in this folder, sorted."""
    return list_files(__path__)


def list_methods() -> list[str]:
    """All names that `find_method` takes, those in this folder first, each part sorted. Imports no method."""
    built_in = list_built_in()
    others = _registered.keys() | {point.name for point in entry_points(group=GROUP)}
    return built_in + sorted(others - set(built_in))


def register_method(name: str) -> Callable[[type[M]], type[M]]:
    """Decorator that makes a subclass of `Method` in this program the method of a name.

    A name may be registered anew. Raises UserError for the name of a method in this folder, and for another class.

        @fedpeft.register_method("plain_mean")
        class PlainMean(fedpeft.Method): ...
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"register_method takes a name of letters, digits, '_' and '-', received {preview(name)}")
    if name in list_built_in():
        raise UserError(f"register_method: {name!r} is a method of fedpeft's own; give another name")

    def register(kind: type[M]) -> type[M]:
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise UserError(f"register_method({name!r}): expected a subclass of Method, received {preview(kind)}")
        _registered[name] = kind
        return kind

    return register


def find_method(name: str) -> type[Method[Any]]:
    """The method of a name; of equal names the one in this folder, then the registered one, then an entry point.

    Raises UserError for an unknown name, a file without exactly one method, or an entry point that cannot be used.
    """
    if name in list_built_in():
        return find_class(__name__, name, Method, "method", "method class")
    if name in _registered:
        return _registered[name]
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise UserError(f"unknown method {name!r}; known: {', '.join(list_methods())}")
    if len(points) > 1:
        packages = ", ".join(sorted(_name_package(point) for point in points))
        raise UserError(f"method {name!r} comes from {len(points)} packages: {packages}; uninstall all but one of them")
    return _load(points[0])


def list_rivals(name: str) -> list[str]:
    """The packages whose entry point has the name of a method in this folder, sorted. They do not replace it."""
    points = entry_points(group=GROUP, name=name) if name in list_built_in() else ()
    return sorted(_name_package(point) for point in points)


def _load(point: EntryPoint) -> type[Method[Any]]:
    where = f"method {point.name!r} of package {_name_package(point)}"
    try:
        kind = point.load()
    except (Exception, SystemExit) as error:  # whatever another package's code raises is that package's fault alone
        raise UserError(
            f"{where} cannot be imported from {point.value}: {type(error).__name__}: {error}; repair or uninstall it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"{where}: {point.value} must be a subclass of fedpeft's Method, received {kind!r}")
    return kind


def _name_package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
