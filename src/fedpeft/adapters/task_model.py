"""The part of an adapted model that tasks use: `AdaptedModel` has it, and so have stacked clients."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class TaskModel(Protocol):
    """A model that runs, generates and takes prompts."""

    @property
    def model(self) -> Any:
        """The model to call: a batch gives an output with `logits`; it also has `generate`."""

    @property
    def device(self) -> torch.device:
        """The device that inputs go to."""

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
