"""Activation checkpointing of transformer blocks in eval mode, on any architecture.

transformers checkpoints in training mode only, which would switch dropout on, and not every architecture takes part.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from fedpeft.adapters.blocks import find_blocks, unwrapped
from fedpeft.adapters.forward import Around


class Recomputed(Around):
    """A block's forward that keeps the block's inputs only and runs a second time in the backward pass.

    Nothing random happens in eval mode, so no generator is saved; without gradients it is the plain forward.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        args = tuple(_without_cache(value) for value in args)
        kwargs = {name: _without_cache(value) for name, value in kwargs.items()}
        return checkpoint(self.plain, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def checkpointing_(model: nn.Module, on: bool) -> None:
    """Switches checkpointing of every transformer block of `model` on or off. Raises `UserError` when the blocks
    cannot be found."""
    for wrapped in find_blocks(model)[1]:
        # Next to the block's own forward: what else stands around it must not run again in the backward pass, when it
        # may know of another batch.
        holder: nn.Module | Around = unwrapped(wrapped)
        name = "forward"
        while isinstance(forward := getattr(holder, name), Around) and not isinstance(forward, Recomputed):
            holder, name = forward, "plain"
        plain = forward.plain if isinstance(forward, Recomputed) else forward
        setattr(holder, name, Recomputed(plain) if on else plain)


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
