"""Activation checkpointing of transformer blocks in eval mode, on any architecture.

transformers' own checkpointing works in training mode only, which would switch dropout on, and not on every
architecture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from fedpeft.acceleration.base import Acceleration, ClientView
from fedpeft.acceleration.forward_wrapper import ForwardWrapper
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones.blocks import find_blocks, unwrap_block


class Checkpointing(Acceleration):
    """Activation checkpointing for clients that were given it: the same gradients, less memory, one more forward."""

    provides_checkpointing = True

    @contextmanager
    def apply(self, model: AdaptedModel, client: ClientView) -> Iterator[None]:
        """Context manager in which the client runs; raises `UserError` when the model's blocks cannot be found."""
        if not client.uses_checkpointing:
            yield
            return
        set_checkpointing_(model.base, True)
        try:
            yield
        finally:
            set_checkpointing_(model.base, False)  # the next client on this model may not use it


class CheckpointedForward(ForwardWrapper):
    """A block's forward that keeps only the block's inputs and runs again in the backward pass.

    Nothing is random in eval mode, so no generator state is saved. Without gradients it is the wrapped forward.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.wrapped(*args, **kwargs)
        args = tuple(_drop_empty_cache(value) for value in args)
        kwargs = {name: _drop_empty_cache(value) for name, value in kwargs.items()}
        return checkpoint(self.wrapped, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def set_checkpointing_(model: nn.Module, enabled: bool) -> None:
    """Switches checkpointing of every transformer block of `model` on or off.

    Raises `UserError` when the blocks cannot be found.
    """
    for block in find_blocks(model)[1]:
        # The checkpoint goes inside all other wrappers, directly around the block's own forward: the others hold the
        # state of a batch, and another batch may have begun when the backward pass runs the checkpoint again.
        holder: nn.Module | ForwardWrapper = unwrap_block(block)
        name = "forward"
        while isinstance(forward := getattr(holder, name), ForwardWrapper) and not isinstance(
            forward, CheckpointedForward
        ):
            holder, name = forward, "wrapped"
        own_forward = forward.wrapped if isinstance(forward, CheckpointedForward) else forward
        setattr(holder, name, CheckpointedForward(own_forward) if enabled else own_forward)


def _drop_empty_cache(value: Any) -> Any:
    """None for an empty key-value cache, to which the second run would append the same keys again; else the value.

    Raises `ValueError` for a cache that holds tokens.
    """
    if not isinstance(value, Cache):
        return value
    if value.get_seq_length() > 0:
        raise ValueError(
            "Checkpointing does not support decoding steps under gradients. "
            f"Received: a cache of {value.get_seq_length()} tokens"
        )
    return None
