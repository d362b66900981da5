"""Finds the prompt tokens that are edited, once per forward."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedpeft.backbones.forward import bind_arguments
from fedpeft.errors import UserError


@dataclass(frozen=True)
class Positions:
    """The first `prefix` and the last `suffix` prompt tokens; 0 and 0 stand for every prompt token."""

    prefix: int
    suffix: int

    @classmethod
    def parse(cls, text: str) -> "Positions":
        """The positions that "f7+l7", "f3", "l1" or "all" stands for. Raises `UserError` for anything else."""
        if text == "all":
            return cls(0, 0)
        match = re.fullmatch(r"(?:f([1-9]\d*))?(\+)?(?:l([1-9]\d*))?", text) if isinstance(text, str) else None
        if match is None or not (match[1] or match[3]) or bool(match[2]) != bool(match[1] and match[3]):
            raise UserError(f"positions: write 'f7+l7', 'f3', 'l1' or 'all'. Received: {text!r}")
        return cls(int(match[1] or 0), int(match[3] or 0))

    def count_groups(self, tied: bool) -> int:
        """The number of interventions of a block: 2 where prefix and suffix have one each, otherwise 1."""
        return 2 if self.prefix and self.suffix and not tied else 1

    def select(self, prompt: Tensor, tied: bool) -> Tensor:
        """The positions to edit, (batch, length, groups) bool.

        `prompt` (batch, length) is True on prompt tokens; padding may be anywhere. A prompt of n < prefix + suffix
        tokens uses min(prefix, n // 2) and min(suffix, ceil(n / 2)), so that no position is edited twice (LoReFT's
        rule).
        """
        if not (self.prefix or self.suffix):
            return prompt.unsqueeze(-1)
        size = prompt.sum(-1, keepdim=True)  # (batch, 1)
        is_short = size < self.prefix + self.suffix
        prefix = torch.where(is_short, (size // 2).clamp(max=self.prefix), self.prefix)
        suffix = torch.where(is_short, ((size + 1) // 2).clamp(max=self.suffix), self.suffix)
        order = prompt.cumsum(-1) - 1  # (batch, length): 0 at the first prompt token
        first, last = prompt & (order < prefix), prompt & (order >= size - suffix)
        if self.count_groups(tied) == 2:
            return torch.stack((first, last), -1)
        return (first | last).unsqueeze(-1)


class PromptTracker:
    """The prompt of the forward that is running in one model instance; instances do not share trackers.

    `begin` is a forward pre-hook of the wrapped model. The prompt is every token of `attention_mask`; when
    labels of the shape of `input_ids` are given (causal language models) it ends before the first label other
    than -100. Tokens that join a key-value cache that is not empty are decoding steps and are never edited.
    Inside `hold_prompt()` the first forward sets the prompt, so that decoding without a cache edits the same
    tokens. Inside `use_prompt()` the prompt is what the caller says.
    """

    def __init__(self, model: nn.Module) -> None:
        self._argument_names = tuple(inspect.signature(model.forward).parameters)
        self._is_holding = False  # inside hold_prompt()
        self._is_held = False  # inside hold_prompt(), after its first forward
        self._expected_length: int | None = None  # of that first forward
        self._is_editing = False
        self._shape = (0, 0)  # (batch, length) of the tokens
        self._device = torch.device("cpu")
        self._prompt: Tensor | None = None  # (batch, length) bool; None: every token
        self._is_part = False  # whether some real tokens are outside the prompt
        self._used_prompt: Tensor | None = None  # (batch, length) bool, inside use_prompt()
        self._real: Tensor | None = None  # (batch, length) bool, tokens that are not padding; None: every token
        self._masks: dict[tuple[Positions, bool, int, torch.dtype, bool], Tensor] = {}

    @property
    def is_editing(self) -> bool:
        """Whether this forward reads a prompt; decoding steps with a cache do not."""
        return self._is_editing

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Finds the prompt of the forward that begins; a forward pre-hook of `model`.

        Raises `UserError` for an attention mask that is not (batch, length), and inside `hold_prompt` for a first
        forward that does not have the whole prompt.
        """
        arguments = bind_arguments(self._argument_names, args, kwargs)
        self._masks = {}
        cache = arguments.get("past_key_values")
        self._is_editing = cache is None or not cache.get_seq_length() > 0
        if not self._is_editing:
            return
        inputs = arguments["input_ids"] if "input_ids" in arguments else arguments["inputs_embeds"]
        shape = (inputs.shape[0], inputs.shape[1])
        attention_mask = arguments.get("attention_mask")
        self._real = None if attention_mask is None else attention_mask != 0
        if self._is_held and cache is None:
            self._prompt = nn.functional.pad(self._make_prompt(), (0, shape[1] - self._shape[1]))
            self._shape, self._is_part = shape, True
            return
        if self._expected_length not in (None, shape[1]):
            raise UserError(
                f"LoReFT needs the whole prompt of {self._expected_length} tokens in the first forward, so it does "
                "not go with prefill in chunks, prompt lookup or an assistant model. "
                f"Received: {shape[1]} tokens"
            )
        self._shape, self._device = shape, inputs.device
        self._find_prompt(attention_mask, arguments.get("labels"))
        self._is_held, self._expected_length = self._is_holding, None

    def _find_prompt(self, attention_mask: Tensor | None, labels: Tensor | None) -> None:
        if self._used_prompt is not None:
            self._prompt, self._is_part = self._used_prompt, True
            return
        if attention_mask is not None and attention_mask.shape != self._shape:
            raise UserError(
                f"LoReFT finds the prompt in attention_mask, which must be (batch, length) = {self._shape}. "
                f"Received: {tuple(attention_mask.shape)}"
            )
        self._prompt = self._real
        self._is_part = labels is not None and labels.shape == self._shape
        if labels is not None and self._is_part:
            before_answer = (labels != -100).cumsum(-1) == 0
            self._prompt = before_answer if self._prompt is None else self._prompt & before_answer

    def _make_prompt(self) -> Tensor:
        if self._prompt is None:
            return torch.ones(self._shape, dtype=torch.bool, device=self._device)
        return self._prompt

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
        self._is_holding, self._is_held, self._expected_length = True, False, length
        try:
            yield
        finally:
            self._is_holding, self._is_held, self._expected_length = False, False, None

    def get_mask(
        self, positions: Positions, tied: bool, rank: int, dtype: torch.dtype, shape: tuple[int, ...] | None = None
    ) -> Tensor | None:
        """The mask (batch, length, groups * rank) of 0 and 1 by which edits are multiplied; None: all are kept.

        A `shape` (1, tokens) other than that of the tokens is that of a block that sees no padding: the mask is then
        (1, tokens, groups * rank). With positions "all" padding is edited too: its hidden states reach neither a real
        token nor the loss, so that the result is exact and the multiplication is saved.
        """
        if not (positions.prefix or positions.suffix) and not self._is_part:
            return None
        is_padding_free = shape is not None and shape != self._shape
        key = (positions, tied, rank, dtype, is_padding_free)
        if key not in self._masks:
            selected = positions.select(self._make_prompt(), tied)  # (batch, length, groups)
            mask = selected.to(dtype).repeat_interleave(rank, -1)
            if is_padding_free:
                assert self._real is not None  # without an attention mask there is no padding
                mask = mask[self._real].unsqueeze(0)  # (1, tokens, groups * rank)
            self._masks[key] = mask
        return self._masks[key]
