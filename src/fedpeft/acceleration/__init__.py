"""Exact optimisations, each in a file of its own that can be deleted without touching anything else.

Stacked clients are not in the tables: the batched engine is what uses them, and goes with them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpeft.acceleration.base import Acceleration
from fedpeft.acceleration.checkpointing import Checkpointing
from fedpeft.acceleration.fused_lora import FusedLora
from fedpeft.acceleration.padding_free import PaddingFree
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError

ALWAYS: tuple[type[Acceleration], ...] = (FusedLora, PaddingFree, Checkpointing)
ON_REQUEST: dict[str, type[Acceleration]] = {"prefix_cache": PrefixCache}  # by the experiment's key

__all__ = ["Acceleration", "make_accelerations", "optimise_forward_"]


def make_accelerations(requested: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Acceleration, ...]:
    """Those that are always on, and those requested with their settings, by the experiment's key.

    Raises UserError for a key that names none, or settings that will not do.
    """
    unknown = [key for key in requested or {} if key not in ON_REQUEST]
    if unknown:
        raise UserError(f"{unknown[0]}: no such acceleration is installed; known: {', '.join(ON_REQUEST) or 'none'}")
    return (*(kind() for kind in ALWAYS), *(ON_REQUEST[key](**given) for key, given in (requested or {}).items()))


def optimise_forward_(model: AdaptedModel) -> None:
    """Installs what is always on, for models used outside of an engine; results change by rounding only."""
    for acceleration in make_accelerations():
        acceleration.install_(model)
