"""Finds the prompt tokens of each forward, once."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from fedpeft.adapters.reft.positions import Positions
from fedpeft.backbones.forward import bind_arguments
from fedpeft.errors import UserError


class Prompt:
    """The prompt of one forward; whoever recomputes a part of that forward later needs this one, not the newest."""

    def __init__(
        self, shape: tuple[int, int], device: torch.device, tokens: Tensor | None, real: Tensor | None
    ) -> None:
        """`shape` (batch, length) of the text on `device`; `tokens` (batch, length) bool are the prompt, and `real`
        those that are not padding; None stands for every token. Where all real tokens are the prompt, both are one
        tensor.
        """
        self.shape = shape
        self._device, self._tokens, self._real = device, tokens, real
        self._masks: dict[tuple[Positions, bool, int, torch.dtype, bool], Tensor] = {}

    @property
    def tokens(self) -> Tensor:
        """The prompt tokens, (batch, length) bool."""
        if self._tokens is None:
            return torch.ones(self.shape, dtype=torch.bool, device=self._device)
        return self._tokens

    def extend(self, length: int, real: Tensor | None) -> "Prompt":
        """The same prompt tokens in a text that has grown to `length`."""
        tokens = nn.functional.pad(self.tokens, (0, length - self.shape[1]))
        return Prompt((self.shape[0], length), self._device, tokens, real)

    def get_mask(
        self, positions: Positions, tied: bool, rank: int, dtype: torch.dtype, shape: tuple[int, ...] | None = None
    ) -> Tensor | None:
        """The mask (batch, length, groups * rank) of 0 and 1 by which edits are multiplied; None: all are kept.

        A `shape` (1, tokens) other than that of the text is that of a block that sees no padding: the mask is then
        (1, tokens, groups * rank). With positions "all" padding is edited too: its hidden states reach neither a real
        token nor the loss, so that the result is exact and the multiplication is saved. Raises `UserError` for hidden
        states of any other shape.
        """
        if not (positions.prefix or positions.suffix) and self._tokens is self._real:
            return None
        has_no_padding = shape is not None and tuple(shape) != self.shape
        key = (positions, tied, rank, dtype, has_no_padding)
        if key not in self._masks:
            selected = positions.select(self.tokens, tied)  # (batch, length, groups)
            mask = selected.to(dtype).repeat_interleave(rank, -1)
            if has_no_padding and self._real is not None:
                mask = mask[self._real].unsqueeze(0)  # (1, tokens, groups * rank)
            self._masks[key] = mask
        mask = self._masks[key]
        if shape is not None and tuple(shape) != mask.shape[:2]:
            raise UserError(
                f"LoReFT edits hidden states (batch, length, width) of the text, (batch, length) = {self.shape}; the "
                "blocks of this model have others, so that only positions='all' without a prompt goes with it, if any. "
                f"Received: {tuple(shape)}"
            )
        return mask


class PromptTracker:
    """The prompt of the forward that is running in one model instance; instances do not share trackers.

    `begin` is a forward pre-hook of the wrapped model. The prompt is every token of `attention_mask`; the labels of a
    causal language model (batch, length) end it before the first label other than -100, in the texts that begin with
    -100: labels of other models, such as those of token classification, hide no prompt. Tokens that join a key-value
    cache that is not empty are decoding steps and are never edited. Inside `hold_prompt()` the first forward sets the
    prompt, so that decoding without a cache edits the same tokens. Inside `use_prompt()` the prompt is what the caller
    says.
    """

    def __init__(self, model: nn.Module) -> None:
        self.prompt: Prompt | None = None  # of the forward that is running; None: nothing is edited
        self._argument_names = tuple(inspect.signature(model.forward).parameters)
        self._labels_may_hide_prompt = isinstance(model, GenerationMixin)  # a causal language model
        self._has_warned = False
        self._is_holding = False  # inside hold_prompt()
        self._held: Prompt | None = None  # inside hold_prompt(), that of its first forward
        self._expected_length: int | None = None  # of that first forward
        self._used_prompt: Tensor | None = None  # (batch, length) bool, inside use_prompt()

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Finds the prompt of the forward that begins; a forward pre-hook of `model`.

        Raises `UserError` for a call without tokens, for an attention mask that is not (batch, length), and inside
        `hold_prompt` for a first forward that does not have the whole prompt.
        """
        arguments = bind_arguments(self._argument_names, args, kwargs)
        cache = arguments.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            self.prompt = None
            return
        inputs = arguments.get("input_ids", arguments.get("inputs_embeds"))
        if inputs is None:
            raise UserError(
                f"LoReFT finds the prompt in input_ids or inputs_embeds. Received: {', '.join(arguments) or 'nothing'}"
            )
        shape = (inputs.shape[0], inputs.shape[1])
        mask = arguments.get("attention_mask")
        if self._held is not None and cache is None:
            self.prompt = self._held.extend(shape[1], None if mask is None else mask != 0)
            return
        if self._expected_length not in (None, shape[1]):
            raise UserError(
                f"LoReFT needs the whole prompt of {self._expected_length} tokens in the first forward, so it does "
                "not go with prefill in chunks, prompt lookup or an assistant model. "
                f"Received: {shape[1]} tokens"
            )
        real = None if mask is None else _find_real(mask, shape, must_fit=self._used_prompt is None)
        tokens = self._find_tokens(shape, real, arguments.get("labels"))
        self.prompt = Prompt(shape, inputs.device, tokens, real)
        self._held, self._expected_length = self.prompt if self._is_holding else None, None

    def _find_tokens(self, shape: tuple[int, int], real: Tensor | None, labels: Tensor | None) -> Tensor | None:
        """The prompt tokens (batch, length) bool; `real` itself where they are the real tokens, None for all."""
        if self._used_prompt is not None:
            return self._used_prompt
        if labels is None or not self._labels_may_hide_prompt or labels.shape != shape:
            return real
        hidden = (labels != -100).cumsum(-1) == 0
        if real is not None:
            hidden = hidden & real
        hides = hidden.any(-1, keepdim=True)  # (batch, 1)
        if not self._has_warned:  # once, because to look is to wait for the device
            self._has_warned = True
            if not hides.any():
                warnings.warn(
                    "The labels hide no prompt: no text begins with -100. LoReFT edits the whole texts, at its "
                    "positions; set the labels of a prompt to -100 to have that prompt edited alone.",
                    stacklevel=2,
                )
        whole = torch.ones_like(hidden) if real is None else real
        return torch.where(hides, hidden, whole)

    @contextmanager
    def use_prompt(self, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt."""
        self._used_prompt = tokens
        try:
            yield
        finally:
            self._used_prompt = None

    @contextmanager
    def hold_prompt(self, length: int | None = None) -> Iterator[None]:
        """Context manager in which the prompt of the first forward stays the prompt while the text grows.

        When `length` is given, a first forward of another length raises `UserError`.
        """
        self._is_holding, self._held, self._expected_length = True, None, length
        try:
            yield
        finally:
            self._is_holding, self._held, self._expected_length = False, None, None


def _find_real(mask: Tensor, shape: tuple[int, int], must_fit: bool) -> Tensor:
    """The tokens that are not padding, (batch, length) bool. Raises `UserError` for a mask that does not say so."""
    if must_fit and mask.shape != shape:
        raise UserError(
            f"LoReFT finds the prompt in attention_mask, which must be (batch, length) = {shape}. "
            f"Received: {tuple(mask.shape)}"
        )
    if mask.is_floating_point() and bool((mask < 0).any()):
        raise UserError(
            "LoReFT finds the prompt in attention_mask, which is 1 on tokens and 0 on padding. Received: a mask with "
            "numbers below 0, to be added to attention scores"
        )
    return mask != 0
