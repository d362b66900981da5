"""Exact optimisations of forward and backward passes, each of which can be deleted without touching anything else.

To delete one, delete its files, their tests, and its import and entry below. Stacked clients have no entry: the batched
engine (`fedpeft.engines.batched`) is their only user and is deleted with them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fedpeft.acceleration.base import Acceleration, ClientView
from fedpeft.acceleration.checkpointing import Checkpointing
from fedpeft.acceleration.fused_lora import FusedLora
from fedpeft.acceleration.padding_free import PaddingFree
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError

ALWAYS_ON: tuple[type[Acceleration], ...] = (FusedLora, PaddingFree, Checkpointing)
ON_REQUEST: dict[str, type[Acceleration]] = {"prefix_cache": PrefixCache}  # by their key in an experiment

__all__ = ["Acceleration", "can_checkpoint", "make_accelerations", "optimise_forward_", "require_checkpointing"]


def make_accelerations(requested: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Acceleration, ...]:
    """The accelerations that are always on, and the requested ones: their options, by their key in an experiment.

    Raises `UserError` for an unknown key and for options that an acceleration refuses.
    """
    requested = requested or {}
    unknown = [key for key in requested if key not in ON_REQUEST]
    if unknown:
        raise UserError(f"{unknown[0]}: no such acceleration is installed; known: {', '.join(ON_REQUEST) or 'none'}")
    always_on = [acceleration() for acceleration in ALWAYS_ON]
    return (*always_on, *(ON_REQUEST[key](**options) for key, options in requested.items()))


def can_checkpoint(accelerations: Iterable[Acceleration | type[Acceleration]] = ALWAYS_ON) -> bool:
    """Whether clients that are given activation checkpointing get it."""
    return any(acceleration.provides_checkpointing for acceleration in accelerations)


def require_checkpointing(accelerations: Iterable[Acceleration], clients: Iterable[ClientView]) -> None:
    """Raises `UserError` for a client that was given checkpointing, which nobody provides: it would take more memory
    than it has."""
    if not can_checkpoint(accelerations) and any(client.uses_checkpointing for client in clients):
        raise UserError("resources: a client was given checkpointing, which is not installed; leave it out")


def optimise_forward_(model: AdaptedModel) -> None:
    """Installs the accelerations that are always on, for models outside an engine; results change by rounding only."""
    for acceleration in make_accelerations():
        acceleration.install_(model)
