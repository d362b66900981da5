"""A padded batch as one row of its real tokens, and attention over such a row. Ours [choice].

Products, norms and activations treat tokens one by one, so between the blocks' ends a batch (batch, length, width) may
be (1, tokens, width) and nothing is spent on padding. Attention alone mixes tokens; there they are padded again, and
the model's own mask and attention function see the rows that they always see.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PLAIN_ATTENTION, PADDING_FREE_ATTENTION = (
    "sdpa",
    "padding_free_sdpa",
)  # names of attention functions in a model's configuration
BATCH_ARGUMENT = "padding_free_batch"  # by this name a block hands the batch on to its attention
LEAST_PADDING = 1 / 16  # of a batch: below it, moving tokens costs what leaving padding out saves [measured]
Places = tuple[Tensor, Tensor]


def get_plain_attention(attention: str) -> str:
    """The attention function's name without packing."""
    return PLAIN_ATTENTION if attention == PADDING_FREE_ATTENTION else attention


@dataclass(frozen=True, eq=False)
class PaddingFreeBatch:
    """Where the real tokens of a batch lie."""

    shape: torch.Size  # (batch, length)
    _places: dict[torch.device, Places]
    _packed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # what all blocks are given, packed once

    @classmethod
    def of(cls, real: Tensor) -> "PaddingFreeBatch | None":
        """`real` (batch, length) bool; None where too little is to be left out, or for a row of padding only."""
        flat = real.flatten()
        places = flat.nonzero().squeeze(1)
        if len(real) == 1 or len(places) > (1 - LEAST_PADDING) * len(flat) or not bool(real.any(-1).all()):
            return None
        sources = (flat.cumsum(0) - 1).clamp_(min=0)
        return cls(real.shape, {real.device: (places, sources)})

    def places(self, device: torch.device) -> Places:
        """(tokens,) int64, the real tokens' places in (batch * length); and (batch * length,) int64, each place's
        token, on padding another one whose value nothing reads."""
        if device not in self._places:  # blocks may lie on several
            places, sources = next(iter(self._places.values()))
            self._places[device] = (places.to(device), sources.to(device))
        return self._places[device]

    def drop_padding_of(self, value: Any) -> Any:
        """What a block is given beside its hidden states: a tensor that goes by tokens, (batch or 1, length, ...) of
        two or three dimensions, is packed; a mask over pairs of tokens has four and stays."""
        if isinstance(value, tuple):
            return tuple(self.drop_padding_of(part) for part in value)
        batch, length = self.shape
        if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[1] != length:
            return value
        if value.shape[0] not in (1, batch):
            return value
        if id(value) not in self._packed:
            whole = value.expand(batch, *value.shape[1:]).flatten(0, 1)
            self._packed[id(value)] = value, whole.index_select(0, self.places(value.device)[0]).unsqueeze(0)
        return self._packed[id(value)][1]


class _DropPadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PaddingFreeBatch) -> Tensor:
        ctx.batch = batch
        return x.flatten(0, 1).index_select(0, batch.places(x.device)[0]).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        (gradient,), batch = given, ctx.batch
        places, sources = batch.places(gradient.device)
        zeros = gradient.new_zeros(len(sources), gradient.shape[-1])  # padding must give none
        return zeros.index_copy_(0, places, gradient.squeeze(0)).unflatten(0, batch.shape), None


class _RestorePadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PaddingFreeBatch) -> Tensor:
        ctx.batch = batch
        return x.squeeze(0).index_select(0, batch.places(x.device)[1]).unflatten(0, batch.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        (gradient,), batch = given, ctx.batch  # on padding it is zero: nobody read what stood there
        return gradient.flatten(0, 1).index_select(0, batch.places(gradient.device)[0]).unsqueeze(0), None


def drop_padding(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """(batch, length, width) -> (1, tokens, width)."""
    packed: Tensor = _DropPadding.apply(x, batch)
    return packed


def restore_padding(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """(1, tokens, width) -> (batch, length, width); what stands on padding is finite and means nothing."""
    unpacked: Tensor = _RestorePadding.apply(x, batch)
    return unpacked


def padding_free_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' `sdpa`, of packed tokens where the block got such: (1, heads, tokens, width) each."""
    batch: PaddingFreeBatch | None = kwargs.pop(BATCH_ARGUMENT, None)
    if batch is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = (_by_row(x, batch) for x in (query, key, value))
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return drop_padding(output.flatten(2), batch).unflatten(2, output.shape[2:]), weights  # (1, tokens, heads, width)


def _by_row(x: Tensor, batch: PaddingFreeBatch) -> Tensor:
    """(1, heads, tokens, width) -> (batch, heads, length, width)."""
    by_token = x.transpose(1, 2)
    return restore_padding(by_token.flatten(2), batch).unflatten(2, by_token.shape[2:]).transpose(1, 2)


AttentionInterface.register(PADDING_FREE_ATTENTION, padding_free_attention)
AttentionMaskInterface.register(PADDING_FREE_ATTENTION, sdpa_mask)
