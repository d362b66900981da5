"""Which prompt tokens are edited: the first, the last, or all."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

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
