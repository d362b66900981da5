"""A model whose transformer blocks see no padding, and whether an architecture allows it. Ours [choice]."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from fedpeft.acceleration.base import Acceleration
from fedpeft.acceleration.forward_wrapper import ForwardWrapper, is_supported_call
from fedpeft.acceleration.padding_free_attention import (
    BATCH_ARGUMENT,
    PADDING_FREE_ATTENTION,
    PLAIN_ATTENTION,
    PaddingFreeBatch,
    drop_padding,
    restore_padding,
)
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones.blocks import find_blocks, unwrap_block
from fedpeft.backbones.forward import bind_arguments
from fedpeft.errors import UserError

log = logging.getLogger(__name__)


class PaddingFreeBlocks:
    """The blocks of one model without padding, from `install` to `remove`. Raises `UserError` when they cannot be
    found."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = [unwrap_block(block) for block in find_blocks(model)[1]]
        self._backbones = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
        self._argument_names = list(inspect.signature(model.forward).parameters)
        self._handles: list[Any] = []
        self.batch: PaddingFreeBatch | None = None  # during a forward

    @property
    def installed(self) -> bool:
        """Whether this or another packing stands around the blocks."""
        return any(isinstance(block.forward, _PaddingFreeBlock) for block in self._blocks)

    def install(self) -> None:
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        for backbone in self._backbones:
            backbone.config._attn_implementation = PADDING_FREE_ATTENTION
        for block in self._blocks:
            block.forward = _PaddingFreeBlock(self, block.forward, last=block is self._blocks[-1])

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for backbone in self._backbones:
            backbone.config._attn_implementation = PLAIN_ATTENTION
        for block in self._blocks:
            assert isinstance(block.forward, _PaddingFreeBlock)
            block.forward = block.forward.wrapped

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.batch = None
        given = bind_arguments(self._argument_names, args, kwargs)
        mask = given.get("attention_mask")
        # A causal model would give back keys and values without their padding, unless it is told to give none.
        caches = "use_cache" in self._argument_names and kwargs.get("use_cache") is not False
        config: Any = model.config
        if is_supported_call(given) and not caches and not config.output_hidden_states and mask is not None:
            self.batch = PaddingFreeBatch.of(mask != 0) if mask.shape == given["input_ids"].shape else None

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self.batch = None

    @property
    def key(self) -> Tensor:
        """The first frozen tensor of the last block, which clones share."""
        inside = (p for p in self._blocks[-1].parameters() if not p.requires_grad)
        return next(inside, next(self._model.parameters()))

    def find_other_attention(self) -> str | None:
        """What the model's attention is, if it is not the one that can be packed."""
        names = {str(backbone.config._attn_implementation) for backbone in self._backbones} - {PLAIN_ATTENTION}
        return f"its attention is not {PLAIN_ATTENTION} but {', '.join(sorted(names))}" if names else None

    def find_incompatibility(self) -> str | None:
        """Why this model's blocks cannot do without padding. Three short rows are run both ways; then the longest
        alone is changed, which must not reach the others by a bit."""
        config: Any = self._model.config
        ids = torch.arange(24).view(3, 8) % config.get_text_config().vocab_size
        other = torch.stack((ids[0], ids[1].flip(0), ids[2]))
        try:
            expected = self._states(ids)  # (rows, length, width)
            self.install()
            try:
                found, reached = self._states(ids), self._states(other)
            finally:
                self.remove()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of an architecture that nobody here knows: anything
            return f"{type(error).__name__}: {error}"
        if not torch.equal(found[[0, 2]], reached[[0, 2]]):
            return "rows would mix"
        return _apart(found, expected)

    @torch.no_grad()
    def _states(self, ids: Tensor) -> Tensor:
        """What leaves the last block for rows of eight tokens, all of the second's, three of the first's and four of
        the third's real: (3, 8, width), zero on padding."""
        left: list[Tensor] = []

        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            left.append(output[0] if isinstance(output, tuple) else output)

        mask = torch.ones_like(ids)
        mask[0, 3:] = mask[2, :4] = 0
        device = next(self._model.parameters()).device
        options = {"use_cache": False} if "use_cache" in self._argument_names else {}
        handle = self._blocks[-1].register_forward_hook(keep)
        try:
            self._model(input_ids=ids.to(device), attention_mask=mask.to(device), **options)
        finally:
            handle.remove()
        return left[0].cpu().masked_fill(mask.unsqueeze(-1) == 0, 0)


class _PaddingFreeBlock(ForwardWrapper):
    """A block's forward that takes padded or packed states and returns packed ones, but for the last block."""

    def __init__(self, packing: PaddingFreeBlocks, plain: Callable[..., Any], last: bool) -> None:
        super().__init__(plain)
        self._packing, self._last = packing, last

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        batch = self._packing.batch
        if batch is None:
            return self.wrapped(hidden, *args, **kwargs)
        if hidden.shape[:2] == batch.shape:  # the first block, or the first above those that a cache serves
            hidden = drop_padding(hidden, batch)
        args = tuple(batch.drop_padding_of(value) for value in args)
        kwargs = {name: batch.drop_padding_of(value) for name, value in kwargs.items()} | {BATCH_ARGUMENT: batch}
        output = self.wrapped(hidden, *args, **kwargs)
        if not self._last:
            return output
        return (
            (restore_padding(output[0], batch), *output[1:])
            if isinstance(output, tuple)
            else restore_padding(output, batch)
        )


def _apart(found: Tensor, expected: Tensor) -> str | None:
    apart = float((found - expected).norm() / expected.norm())
    allowed = min(1e3 * torch.finfo(expected.dtype).eps, 0.1)
    return None if apart < allowed else f"its states would differ by {apart:.1g} of their size"


class PaddingFree(Acceleration):
    """Transformer blocks see no padding, where the architecture allows it."""

    def install_(self, model: AdaptedModel) -> None:
        remove_padding_(model.base)


def remove_padding_(model: nn.Module) -> None:
    """From now on the blocks of `model` see no padding, where its architecture allows it; else it stays as it is."""
    try:
        packing = PaddingFreeBlocks(model)
    except UserError as error:
        log.info("padding goes through the blocks: %s", error)
        return
    if packing.installed:
        return
    reason = packing.find_other_attention()
    if reason is None:
        key = packing.key
        if key not in _incompatibilities:
            _incompatibilities[key] = packing.find_incompatibility()
        reason = _incompatibilities[key]
    if reason is None:
        packing.install()
    else:
        log.info("padding goes through the blocks: %s", reason)


_incompatibilities = WeakIdKeyDictionary()  # key of a packing -> what prevents it, or None: clones need not try again
