"""Transformer blocks that see no padding, and the test whether an architecture allows it. Ours [choice]."""

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
    PADDED_ATTENTION,
    PADDING_FREE_ATTENTION,
    PaddingFreeBatch,
    drop_padding,
    restore_padding,
)
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones.blocks import find_blocks, unwrap_block
from fedpeft.backbones.forward import bind_arguments
from fedpeft.errors import UserError

log = logging.getLogger(__name__)

# Results of `find_incompatibility` by a model's `shared_tensor`, so that clones need not test again.
_incompatibilities = WeakIdKeyDictionary()


class PaddingFree(Acceleration):
    """Transformer blocks that see no padding, where the architecture allows it."""

    def install_(self, model: AdaptedModel) -> None:
        remove_padding_(model.base)


def remove_padding_(model: nn.Module) -> None:
    """Makes the blocks of `model` see no padding, where its architecture allows it; otherwise logs why not."""
    try:
        blocks = PaddingFreeBlocks(model)
    except UserError as error:
        log.info("blocks keep their padding: %s", error)
        return
    if blocks.is_installed:
        return
    reason = blocks.find_other_attention()
    if reason is None:
        if blocks.shared_tensor not in _incompatibilities:
            _incompatibilities[blocks.shared_tensor] = blocks.find_incompatibility()
        reason = _incompatibilities[blocks.shared_tensor]
    if reason is None:
        blocks.install()
    else:
        log.info("blocks keep their padding: %s", reason)


class PaddingFreeBlocks:
    """The blocks of one model, which see no padding from `install` to `remove`."""

    def __init__(self, model: nn.Module) -> None:
        """Raises `UserError` when the model's blocks cannot be found."""
        self._model = model
        self._blocks = [unwrap_block(block) for block in find_blocks(model)[1]]
        self._backbones = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        self._argument_names = list(inspect.signature(model.forward).parameters)
        self._handles: list[Any] = []
        self.batch: PaddingFreeBatch | None = None  # of the current forward; None: padding stays

    @property
    def is_installed(self) -> bool:
        """Whether the blocks see no padding, through this object or another."""
        return any(isinstance(block.forward, _PaddingFreeBlock) for block in self._blocks)

    @property
    def shared_tensor(self) -> Tensor:
        """The first frozen tensor of the last block, which clones of the model share."""
        frozen = (parameter for parameter in self._blocks[-1].parameters() if not parameter.requires_grad)
        return next(frozen, next(self._model.parameters()))

    def install(self) -> None:
        """Wraps the blocks and sets the attention function that handles batches without padding."""
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        for backbone in self._backbones:
            backbone.config._attn_implementation = PADDING_FREE_ATTENTION
        for block in self._blocks:
            block.forward = _PaddingFreeBlock(self, block.forward, is_last=block is self._blocks[-1])

    def remove(self) -> None:
        """Undoes `install`."""
        for handle in self._handles:
            handle.remove()
        for backbone in self._backbones:
            backbone.config._attn_implementation = PADDED_ATTENTION
        for block in self._blocks:
            assert isinstance(block.forward, _PaddingFreeBlock)
            block.forward = block.forward.wrapped

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.batch = None
        arguments = bind_arguments(self._argument_names, args, kwargs)
        mask = arguments.get("attention_mask")
        # Unless it is told to return none, a causal model would return keys and values without their padding.
        returns_cache = "use_cache" in self._argument_names and kwargs.get("use_cache") is not False
        config: Any = model.config
        if is_supported_call(arguments) and not returns_cache and not config.output_hidden_states and mask is not None:
            has_shape_of_ids = mask.shape == arguments["input_ids"].shape
            self.batch = PaddingFreeBatch.from_mask(mask != 0) if has_shape_of_ids else None

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self.batch = None

    def find_other_attention(self) -> str | None:
        """The reason why the model's attention function cannot do without padding, or None."""
        names = {str(backbone.config._attn_implementation) for backbone in self._backbones} - {PADDED_ATTENTION}
        return f"its attention is not {PADDED_ATTENTION} but {', '.join(sorted(names))}" if names else None

    def find_incompatibility(self) -> str | None:
        """The reason why the model's blocks cannot do without padding, or None.

        Three short probe sequences are run with and without padding; then the longest is changed, which must not
        change a bit of the states of the others.
        """
        config: Any = self._model.config
        ids = torch.arange(24).view(3, 8) % config.get_text_config().vocab_size
        changed_ids = torch.stack((ids[0], ids[1].flip(0), ids[2]))
        try:
            expected = self._probe(ids)
            self.install()
            try:
                states, changed_states = self._probe(ids), self._probe(changed_ids)
            finally:
                self.remove()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an unknown architecture may raise anything
            return f"{type(error).__name__}: {error}"
        if not torch.equal(states[[0, 2]], changed_states[[0, 2]]):
            return "sequences would mix"
        return _compare_states(states, expected)

    @torch.no_grad()
    def _probe(self, ids: Tensor) -> Tensor:
        """Last-block states (3, 8, width) of probe sequences `ids` with 3, 8 and 4 real tokens, zero on padding."""
        outputs: list[Tensor] = []

        def record(block: nn.Module, inputs: Any, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        mask = torch.ones_like(ids)
        mask[0, 3:] = mask[2, :4] = 0
        device = next(self._model.parameters()).device
        options = {"use_cache": False} if "use_cache" in self._argument_names else {}
        handle = self._blocks[-1].register_forward_hook(record)
        try:
            self._model(input_ids=ids.to(device), attention_mask=mask.to(device), **options)
        finally:
            handle.remove()
        return outputs[0].cpu().masked_fill(mask.unsqueeze(-1) == 0, 0)


class _PaddingFreeBlock(ForwardWrapper):
    """A block's forward that drops padding from its input, if there is any; the last block's restores it at the end."""

    def __init__(self, blocks: PaddingFreeBlocks, wrapped: Callable[..., Any], is_last: bool) -> None:
        super().__init__(wrapped)
        self._blocks, self._is_last = blocks, is_last

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        batch = self._blocks.batch
        if batch is None:
            return self.wrapped(hidden, *args, **kwargs)
        if hidden.shape[:2] == batch.shape:  # in the first block, and in the first above those that a cache replaces
            hidden = drop_padding(hidden, batch)
        args = tuple(batch.drop_padding_of(value) for value in args)
        kwargs = {name: batch.drop_padding_of(value) for name, value in kwargs.items()} | {BATCH_ARGUMENT: batch}
        output = self.wrapped(hidden, *args, **kwargs)
        if not self._is_last:
            return output
        if isinstance(output, tuple):
            return (restore_padding(output[0], batch), *output[1:])
        return restore_padding(output, batch)


def _compare_states(states: Tensor, expected: Tensor) -> str | None:
    """The reason why `states` are not those expected but for rounding, or None."""
    difference = float((states - expected).norm() / expected.norm())
    tolerance = min(1e3 * torch.finfo(expected.dtype).eps, 0.1)
    return None if difference < tolerance else f"its states would differ by {difference:.1g} of their size"
