"""Which token positions of the prompt are edited, found once per forward."""

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
    """The first `prefix` and the last `suffix` prompt tokens; both 0 stands for every prompt token."""

    prefix: int
    suffix: int

    @classmethod
    def parse(cls, text: str) -> "Positions":
        """Read "f7+l7", "f3", "l1" or "all". Raises `UserError` for anything else."""
        if text == "all":
            return cls(0, 0)
        match = re.fullmatch(r"(?:f([1-9]\d*))?(\+)?(?:l([1-9]\d*))?", text) if isinstance(text, str) else None
        if match is None or not (match[1] or match[3]) or bool(match[2]) != bool(match[1] and match[3]):
            raise UserError(f"positions: write 'f7+l7', 'f3', 'l1' or 'all'. Received: {text!r}")
        return cls(int(match[1] or 0), int(match[3] or 0))

    def groups(self, tied: bool) -> int:
        """How many interventions a block has: 2 when prefix and suffix each have their own, else 1."""
        return 2 if self.prefix and self.suffix and not tied else 1

    def select(self, prompt: Tensor, tied: bool) -> Tensor:
        """`prompt` (batch, length) bool, padding anywhere -> (batch, length, groups) bool, the positions to
        edit.

        A prompt of n < prefix + suffix tokens uses min(prefix, n // 2) and min(suffix, ceil(n / 2)), so that
        no position is edited twice (LoReFT's rule).
        """
        if not (self.prefix or self.suffix):
            return prompt.unsqueeze(-1)
        size = prompt.sum(-1, keepdim=True)  # (batch, 1)
        short = size < self.prefix + self.suffix
        prefix = torch.where(short, (size // 2).clamp(max=self.prefix), self.prefix)
        suffix = torch.where(short, ((size + 1) // 2).clamp(max=self.suffix), self.suffix)
        place = prompt.cumsum(-1) - 1  # (batch, length): 0 at the first prompt token
        first, last = prompt & (place < prefix), prompt & (place >= size - suffix)
        if self.groups(tied) == 2:
            return torch.stack((first, last), -1)
        return (first | last).unsqueeze(-1)


class PromptTracker:
    """What one forward of one model instance edits. Not shared between instances: one thread per instance.

    `begin` is a forward pre-hook of the wrapped model. The prompt is every token of `attention_mask`; when
    labels of the shape of `input_ids` are given (causal language models) it ends before the first label other
    than -100. Tokens that join a key-value cache that is not empty are decoding steps and are never edited.
    Inside `one_prompt()` the first forward sets the prompt, so that decoding without a cache edits the same
    tokens. Inside `given()` the prompt is what was given.
    """

    def __init__(self, model: nn.Module) -> None:
        self._argument_names = tuple(inspect.signature(model.forward).parameters)
        self._in_scope = False  # inside one_prompt()
        self._prompt_known = False  # and behind its first forward
        self._expected_length: int | None = None  # of that first forward
        self._editing = False
        self._shape = (0, 0)  # of the tokens
        self._device = torch.device("cpu")
        self._tokens: Tensor | None = None  # (batch, length) bool, the prompt; None: every token
        self._is_part = False  # whether some real tokens are not prompt
        self._given: Tensor | None = None  # (batch, length) bool, inside given()
        self._real: Tensor | None = None  # (batch, length) bool, the tokens that are no padding; None: every token
        self._masks: dict[tuple[Positions, bool, int, torch.dtype, bool], Tensor] = {}

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = bind_arguments(self._argument_names, args, kwargs)
        self._masks = {}
        cache = given.get("past_key_values")
        self._editing = cache is None or not cache.get_seq_length() > 0
        if not self._editing:
            return
        inputs = given["input_ids"] if "input_ids" in given else given["inputs_embeds"]
        shape = (inputs.shape[0], inputs.shape[1])
        attention_mask = given.get("attention_mask")
        self._real = None if attention_mask is None else attention_mask != 0
        if self._prompt_known and cache is None:
            self._tokens = nn.functional.pad(self._prompt(), (0, shape[1] - self._shape[1]))
            self._shape, self._is_part = shape, True
            return
        if self._expected_length not in (None, shape[1]):
            raise UserError(
                f"LoReFT needs the whole prompt of {self._expected_length} tokens in the first forward, so it does "
                "not go with prefill in chunks, prompt lookup or an assistant model. "
                f"Received: {shape[1]} tokens"
            )
        self._shape, self._device = shape, inputs.device
        self._read_prompt(attention_mask, given.get("labels"))
        self._prompt_known, self._expected_length = self._in_scope, None

    def _read_prompt(self, attention_mask: Tensor | None, labels: Tensor | None) -> None:
        if self._given is not None:
            self._tokens, self._is_part = self._given, True
            return
        if attention_mask is not None and attention_mask.shape != self._shape:
            raise UserError(
                f"LoReFT finds the prompt in attention_mask, which must be (batch, length) = {self._shape}. "
                f"Received: {tuple(attention_mask.shape)}"
            )
        self._tokens = self._real
        self._is_part = labels is not None and labels.shape == self._shape
        if labels is not None and self._is_part:
            before_answer = (labels != -100).cumsum(-1) == 0
            self._tokens = before_answer if self._tokens is None else self._tokens & before_answer

    def _prompt(self) -> Tensor:
        if self._tokens is None:
            return torch.ones(self._shape, dtype=torch.bool, device=self._device)
        return self._tokens

    @contextmanager
    def given(self, prompt: Tensor) -> Iterator[None]:
        """Until the end of the block `prompt` (batch, length) bool says which tokens are the prompt."""
        self._given = prompt
        try:
            yield
        finally:
            self._given = None

    @contextmanager
    def one_prompt(self, length: int | None = None) -> Iterator[None]:
        """Until the end of the block the prompt of the first forward stays fixed while the text grows.

        When `length` is given, a first forward of another length raises `UserError`.
        """
        self._in_scope, self._prompt_known, self._expected_length = True, False, length
        try:
            yield
        finally:
            self._in_scope, self._prompt_known, self._expected_length = False, False, None

    @property
    def editing(self) -> bool:
        """Whether this forward reads a prompt (false in decoding steps with a cache)."""
        return self._editing

    def mask(
        self, positions: Positions, tied: bool, rank: int, dtype: torch.dtype, shape: tuple[int, ...] | None = None
    ) -> Tensor | None:
        """(batch, length, groups * rank) of 0 and 1; None when every position is edited. Where `shape` is not that of
        the tokens but (1, tokens), the block sees no padding, and the mask has none: (1, tokens, groups * rank).

        With positions "all" padding is edited too: its hidden states reach neither a real token nor the loss,
        so the result is exact and the multiplication is saved.
        """
        if not (positions.prefix or positions.suffix) and not self._is_part:
            return None
        packed = shape is not None and shape != self._shape
        key = (positions, tied, rank, dtype, packed)
        if key not in self._masks:
            mask = self._expanded(positions, tied, rank, dtype)
            if packed:
                assert self._real is not None  # without a mask there is no padding
                mask = mask[self._real].unsqueeze(0)  # (1, tokens, groups * rank)
            self._masks[key] = mask
        return self._masks[key]

    def _expanded(self, positions: Positions, tied: bool, rank: int, dtype: torch.dtype) -> Tensor:
        chosen = positions.select(self._prompt(), tied)  # (batch, length, groups)
        return chosen.to(dtype).repeat_interleave(rank, -1)
