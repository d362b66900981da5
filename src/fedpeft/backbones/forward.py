"""Reads the arguments of a call to a model's forward."""

from collections.abc import Mapping, Sequence
from typing import Any


def bind_arguments(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, without those that are None or False.

    `names` are the forward's parameters in order: they name the positional arguments.
    """
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: value for name, value in arguments.items() if value is not None and value is not False}
