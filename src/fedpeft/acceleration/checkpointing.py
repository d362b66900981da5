"""Activation checkpointing of transformer blocks in eval mode, on any architecture.

transformers checkpoints in training mode only, which would switch dropout on, and not every architecture takes part.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from fedpeft.acceleration.base import Acceleration, Turn
from fedpeft.acceleration.forward_wrapper import ForwardWrapper
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones.blocks import find_blocks, unwrap_block


class CheckpointedForward(ForwardWrapper):
    """A block's forward that keeps the block's inputs only and runs a second time in the backward pass.

    Nothing random happens in eval mode, so no generator is saved; without gradients it is the plain forward.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.wrapped(*args, **kwargs)
        args = tuple(_without_cache(value) for value in args)
        kwargs = {name: _without_cache(value) for name, value in kwargs.items()}
        return checkpoint(self.wrapped, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


class Checkpointing(Acceleration):
    """Activation checkpointing during the turns of clients that were given it: the same gradients, less memory, one
    more forward."""

    @contextmanager
    def apply(self, model: AdaptedModel, client: Turn) -> Iterator[None]:
        """Context manager: raises `UserError` when the model's blocks cannot be found."""
        if not client.checkpointing:
            yield
            return
        set_checkpointing_(model.base, True)
        try:
            yield
        finally:
            set_checkpointing_(model.base, False)  # the model serves other clients too


def set_checkpointing_(model: nn.Module, on: bool) -> None:
    """Switches checkpointing of every transformer block of `model` on or off. Raises `UserError` when the blocks
    cannot be found."""
    for wrapped in find_blocks(model)[1]:
        # Next to the block's own forward: what else stands around it must not run again in the backward pass, when it
        # may know of another batch.
        holder: nn.Module | ForwardWrapper = unwrap_block(wrapped)
        name = "forward"
        while isinstance(forward := getattr(holder, name), ForwardWrapper) and not isinstance(
            forward, CheckpointedForward
        ):
            holder, name = forward, "wrapped"
        plain = forward.wrapped if isinstance(forward, CheckpointedForward) else forward
        setattr(holder, name, CheckpointedForward(plain) if on else plain)


def _without_cache(value: Any) -> Any:
    """None for an empty key-value cache: the second run would append the same keys again."""
    if not isinstance(value, Cache):
        return value
    if value.get_seq_length() > 0:
        raise ValueError(
            "Checkpointing does not go with decoding steps under gradients. "
            f"Received: a cache of {value.get_seq_length()} tokens"
        )
    return None
