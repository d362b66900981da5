"""Batches whose padding is dropped between blocks' ends, and attention over them. Ours [choice].

Products, norms and activations treat tokens one by one, so between the first and the last block the states of a batch
(batch, length, width) may be (1, tokens, width) and no time is spent on padding. Only attention mixes tokens: there the
padding is restored, so that the model's own mask and attention function see the shapes that they always see.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fedpeft.acceleration.forward_wrapper import register_substitute_attention

# Names of attention functions in a model's configuration.
PADDED_ATTENTION = "sdpa"
PADDING_FREE_ATTENTION = "padding_free_sdpa"

BATCH_ARGUMENT = "padding_free_batch"  # the keyword argument by which a block passes the batch to its attention
MIN_PADDING = 1 / 16  # fraction of a batch; with less, moving the tokens costs as much as it saves [measured]


@dataclass(frozen=True, eq=False)
class PaddingFreeBatch:
    """The positions of the real tokens of a batch."""

    shape: torch.Size  # (batch, length)
    _indices: dict[torch.device, tuple[Tensor, Tensor]]  # by device, as `get_indices` returns them
    # Arguments without their padding, by id: all blocks are passed the same. The originals are kept, so that no id
    # is used twice.
    _arguments: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def from_mask(cls, is_real: Tensor) -> "PaddingFreeBatch | None":
        """The batch whose real tokens `is_real` (batch, length) bool marks.

        None where dropping padding is not worth it (a single row, less padding than `MIN_PADDING`) or not possible (a
        row that is all padding).
        """
        flat = is_real.flatten()
        positions = flat.nonzero().squeeze(1)
        has_little_padding = len(positions) > (1 - MIN_PADDING) * len(flat)
        if len(is_real) == 1 or has_little_padding or not bool(is_real.any(-1).all()):
            return None
        tokens = (flat.cumsum(0) - 1).clamp_(min=0)
        return cls(is_real.shape, {is_real.device: (positions, tokens)})

    def get_indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The position of each real token, (tokens,), and the token of each position, (batch * length,), both int64.

        Positions are those in the flattened batch. A position on padding has the number of some token, whose value
        there is never read.
        """
        if device not in self._indices:  # blocks may be on several devices
            positions, tokens = next(iter(self._indices.values()))
            self._indices[device] = (positions.to(device), tokens.to(device))
        return self._indices[device]

    def drop_padding_of(self, value: Any) -> Any:
        """An argument of a block, without padding if it is a tensor over tokens.

        These are (batch or 1, length) and (batch or 1, length, width); a mask over pairs of tokens has four dimensions
        and stays as it is.
        """
        if isinstance(value, tuple):
            return tuple(self.drop_padding_of(part) for part in value)
        batch, length = self.shape
        if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[1] != length:
            return value
        if value.shape[0] not in (1, batch):
            return value
        if id(value) not in self._arguments:
            flat = value.expand(batch, *value.shape[1:]).flatten(0, 1)
            self._arguments[id(value)] = value, flat.index_select(0, self.get_indices(value.device)[0]).unsqueeze(0)
        return self._arguments[id(value)][1]


def drop_padding(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """The states (1, tokens, width) of the real tokens of x (batch, length, width)."""
    tokens: Tensor = _DropPadding.apply(x, batch)
    return tokens


def restore_padding(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """States (batch, length, width) with the real tokens x (1, tokens, width), and finite values on padding."""
    states: Tensor = _RestorePadding.apply(x, batch)
    return states


class _DropPadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PaddingFreeBatch) -> Tensor:
        ctx.batch = batch
        return x.flatten(0, 1).index_select(0, batch.get_indices(x.device)[0]).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), batch = gradients, ctx.batch
        positions, tokens = batch.get_indices(gradient.device)
        zeros = gradient.new_zeros(len(tokens), gradient.shape[-1])  # padding has no gradient
        return zeros.index_copy_(0, positions, gradient.squeeze(0)).unflatten(0, batch.shape), None


class _RestorePadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PaddingFreeBatch) -> Tensor:
        ctx.batch = batch
        return x.squeeze(0).index_select(0, batch.get_indices(x.device)[1]).unflatten(0, batch.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), batch = gradients, ctx.batch
        # The gradient on padding is zero, because nothing reads the values there: it can be left out.
        return gradient.flatten(0, 1).index_select(0, batch.get_indices(gradient.device)[0]).unsqueeze(0), None


def padding_free_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' `sdpa`, over tokens without padding, (1, heads, tokens, width), where a block passes a batch."""
    batch: PaddingFreeBatch | None = kwargs.pop(BATCH_ARGUMENT, None)
    if batch is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = (_restore_heads(x, batch) for x in (query, key, value))
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return drop_padding(output.flatten(2), batch).unflatten(2, output.shape[2:]), weights  # (1, tokens, heads, width)


def _restore_heads(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """(1, heads, tokens, width) -> (batch, heads, length, width)."""
    by_token = x.transpose(1, 2)
    return restore_padding(by_token.flatten(2), batch).unflatten(2, by_token.shape[2:]).transpose(1, 2)


AttentionInterface.register(PADDING_FREE_ATTENTION, padding_free_attention)
AttentionMaskInterface.register(PADDING_FREE_ATTENTION, sdpa_mask)
register_substitute_attention(PADDING_FREE_ATTENTION, PADDED_ATTENTION)
