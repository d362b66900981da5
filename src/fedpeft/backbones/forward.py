"""What a model's forward was called with, by argument name."""

from collections.abc import Mapping, Sequence
from typing import Any


def bind_arguments(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward by name, positional ones by `names`; those that are None or False are left out."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: value for name, value in given.items() if value is not None and value is not False}
