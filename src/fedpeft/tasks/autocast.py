"""A task with the model's matrix products in a lower precision."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Batch, Encoded, Padding
from fedpeft.tasks.examples import Example
from fedpeft.tasks.task import Task


@dataclass(frozen=True)
class Autocast(Task):
    """Another task with the backbone's and adapter's matrix products in `dtype`; weights, logits, losses and gradients
    keep theirs."""

    task: Task
    dtype: torch.dtype

    @property
    def metric(self) -> str:
        return self.task.metric

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        return self.task.encode(examples)

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        with self._autocast(model):
            return self.task.losses(model, batch)

    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        with self._autocast(model):
            return self.task.scores(model, examples, padding)

    def predict(
        self, model: TaskModel, examples: Sequence[Encoded], padding: Padding, **writing: Any
    ) -> list[dict[str, Any]]:
        with self._autocast(model):
            return self.task.predict(model, examples, padding, **writing)

    def _autocast(self, model: TaskModel) -> AbstractContextManager[Any]:
        return torch.autocast(model.device.type, self.dtype)
