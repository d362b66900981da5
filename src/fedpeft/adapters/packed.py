"""A padded batch through the transformer blocks without its padding. Ours [choice].

Between the blocks' ends a batch (batch, length, width) is one row of its real tokens, (1, tokens, width), so that
products, norms and activations, which treat tokens one by one, are spent on real tokens only. Attention alone mixes
tokens; there they are padded again, and the model's own mask and attention function see what they always see.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fedpeft.adapters.blocks import find_blocks, unwrapped
from fedpeft.adapters.prefix_blocks import asked, served

log = logging.getLogger(__name__)
PREFIX, PLAIN = "packed_", "sdpa"  # names of attention functions in a model's configuration
PACKED = PREFIX + PLAIN
LEAST = 1 / 16  # of a batch must be padding: below it, moving tokens costs what leaving it out saves [measured]
ARGUMENT = "packed_batch"  # by this name a block hands the batch on to its attention


@dataclass(frozen=True)
class PackedBatch:
    """Where the real tokens of a batch lie."""

    shape: torch.Size  # (batch, length)
    places: Tensor  # (tokens,) int64: of the real tokens in (batch * length)
    sources: Tensor  # (batch * length,) int64: each place's token; on padding another one, whose value nothing reads
    _known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # what all blocks are given, packed once

    @classmethod
    def of(cls, real: Tensor) -> "PackedBatch | None":
        """`real` (batch, length) bool; None where too little is to be left out, or for a row of padding only."""
        flat = real.flatten()
        places = flat.nonzero().squeeze(1)
        if len(real) == 1 or len(places) > (1 - LEAST) * len(flat) or not bool(real.any(-1).all()):
            return None
        return cls(real.shape, places, (flat.cumsum(0) - 1).clamp_(min=0))

    def argument(self, value: Any) -> Any:
        """What a block is given beside its hidden states: a tensor that goes by tokens, (batch or 1, length, ...) of
        two or three dimensions, is packed; a mask over pairs of tokens has four and stays."""
        if isinstance(value, tuple):
            return tuple(self.argument(part) for part in value)
        batch, length = self.shape
        if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[1] != length:
            return value
        if value.shape[0] not in (1, batch):
            return value
        if id(value) not in self._known:
            whole = value.expand(batch, *value.shape[1:]).flatten(0, 1)
            self._known[id(value)] = value, whole.index_select(0, self.places).unsqueeze(0)
        return self._known[id(value)][1]


class _Pack(torch.autograd.Function):
    """(batch, length, width) -> (1, tokens, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PackedBatch) -> Tensor:
        ctx.batch = batch
        return x.flatten(0, 1).index_select(0, batch.places).unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        batch, (gradient,) = ctx.batch, given
        zeros = gradient.new_zeros(len(batch.sources), gradient.shape[-1])  # padding must give none
        return zeros.index_copy_(0, batch.places, gradient.squeeze(0)).unflatten(0, batch.shape), None


class _Unpack(torch.autograd.Function):
    """(1, tokens, width) -> (batch, length, width), on padding whatever: nobody reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: PackedBatch) -> Tensor:
        ctx.batch = batch
        return x.squeeze(0).index_select(0, batch.sources).unflatten(0, batch.shape)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        return given[0].flatten(0, 1).index_select(0, ctx.batch.places).unsqueeze(0), None


def pack(x: Tensor, batch: PackedBatch) -> Tensor:
    """(batch, length, width) -> (1, tokens, width)."""
    packed: Tensor = _Pack.apply(x, batch)
    return packed


def unpack(x: Tensor, batch: PackedBatch) -> Tensor:
    """(1, tokens, width) -> (batch, length, width); what stands on padding is finite and means nothing."""
    unpacked: Tensor = _Unpack.apply(x, batch)
    return unpacked


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' `sdpa`, of packed tokens where the block got such: (1, heads, tokens, width) each."""
    batch: PackedBatch | None = kwargs.pop(ARGUMENT, None)
    if batch is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = (_by_row(x, batch) for x in (query, key, value))
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return pack(output.flatten(2), batch).unflatten(2, output.shape[2:]), weights  # (1, tokens, heads, width)


def _by_row(x: Tensor, batch: PackedBatch) -> Tensor:
    """(1, heads, tokens, width) -> (batch, heads, length, width)."""
    by_token = x.transpose(1, 2)
    return unpack(by_token.flatten(2), batch).unflatten(2, by_token.shape[2:]).transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


class Packing:
    """The blocks of one model without padding, from `install` to `remove`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = [unwrapped(block) for block in find_blocks(model)[1]]
        self._backbones = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
        self._argument_names = list(inspect.signature(model.forward).parameters)
        self.batch: PackedBatch | None = None  # of this forward, and of its recomputation in the backward pass

    def install(self) -> None:
        self._handle = self._model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for backbone in self._backbones:
            backbone.config._attn_implementation = PACKED
        for block in self._blocks:
            # On the instance: hooks on the block (LoReFT's edit is one) stay outside.
            block.forward = _PackedBlock(self, block.forward, last=block is self._blocks[-1])

    def remove(self) -> None:
        self._handle.remove()
        for backbone in self._backbones:
            backbone.config._attn_implementation = PLAIN
        for block in self._blocks:
            assert isinstance(block.forward, _PackedBlock)
            block.forward = block.forward.plain

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = asked(self._argument_names, args, kwargs)
        mask, self.batch = given.get("attention_mask"), None
        if served(given) and mask is not None and mask.shape == given["input_ids"].shape:
            self.batch = PackedBatch.of(mask != 0)

    def what_prevents(self) -> str | None:
        """Why this model's blocks cannot do without padding; found out by running two short rows both ways."""
        if any(backbone.config._attn_implementation != PLAIN for backbone in self._backbones):
            return f"its attention is not {PLAIN}"
        expected = self._sample()  # (tokens, width)
        self.install()
        try:
            found = self._sample()
        except Exception as error:  # of an architecture that nobody here knows: anything
            return f"{type(error).__name__}: {error}"
        finally:
            self.remove()
        apart = float((found - expected).norm() / expected.norm())
        rounding = 1e3 * torch.finfo(expected.dtype).eps
        return None if apart < min(rounding, 0.1) else f"its states would differ by {apart:.1g} of their size"

    @torch.no_grad()
    def _sample(self) -> Tensor:
        """What leaves the last block for rows of eight and three tokens, the real ones, (11, width)."""
        left: list[Tensor] = []

        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            left.append(output[0] if isinstance(output, tuple) else output)

        handle = self._blocks[-1].register_forward_hook(keep)
        mask = torch.ones(2, 8, dtype=torch.long, device=next(self._model.parameters()).device)
        mask[1, 3:] = 0
        try:
            self._model(input_ids=mask.cumsum(-1) * mask, attention_mask=mask)
        finally:
            handle.remove()
        return left[0][mask != 0]


class _PackedBlock:
    """A block's forward that takes padded or packed states and returns packed ones, but for the last block."""

    def __init__(self, packing: Packing, plain: Callable[..., Any], last: bool) -> None:
        self.plain, self._packing, self._last = plain, packing, last

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        batch = self._packing.batch
        if batch is None or hidden.shape[:2] not in (batch.shape, (1, len(batch.places))):  # a row that runs alone
            return self.plain(hidden, *args, **kwargs)
        if hidden.shape[:2] == batch.shape:
            hidden = pack(hidden, batch)
        args = tuple(batch.argument(value) for value in args)
        kwargs = {name: batch.argument(value) for name, value in kwargs.items()} | {ARGUMENT: batch}
        output = self.plain(hidden, *args, **kwargs)
        if not self._last:
            return output
        return (unpack(output[0], batch), *output[1:]) if isinstance(output, tuple) else unpack(output, batch)


def pack_(model: nn.Module) -> None:
    """From now on the blocks of `model` see no padding, where its architecture allows it."""
    packing = Packing(model)
    backbone = next(model.parameters())  # frozen, and shared by all clones
    if backbone not in _prevented:
        _prevented[backbone] = packing.what_prevents()
        if _prevented[backbone]:
            log.info("padding goes through the blocks: %s", _prevented[backbone])
    if _prevented[backbone] is None:
        packing.install()


_prevented = WeakIdKeyDictionary()  # first parameter of a backbone -> why it is not packed, or None
