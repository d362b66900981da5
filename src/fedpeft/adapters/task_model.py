"""What a task asks of a model: a slot has it, and so have the rows of a stack."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class TaskModel(Protocol):
    """An adapted model that runs and generates."""

    @property
    def model(self) -> Any:
        """Called with a batch it returns an output with logits; it has `generate`."""

    @property
    def device(self) -> torch.device:
        """Where inputs go."""

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Until the end of the block LoReFT edits these tokens, (batch, length) bool."""
