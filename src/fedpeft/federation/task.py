"""What is learned and how it is scored: the part of a client's work that the kind of task decides."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Batch, Encoded, Padding, make_batches
from fedpeft.tasks.metrics import classification_scores, regression_scores

ROWS = 32  # scored at once: like training, but without activations to keep


class Task(Protocol):
    """A kind of task. The batches are those of `fedpeft.tasks.encode`."""

    @property
    def metric(self) -> str:
        """Which of the scores a table shows."""
        ...

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        """(batch,): each row's loss, summed over its labels that count (`fedpeft.tasks.encode.scored`)."""
        ...

    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """The metrics over the rows as the model stands, with `loss`, their mean per label, and `examples`."""
        ...


def logits(model: TaskModel, batch: Batch) -> Tensor:
    """(batch, outputs) of a classifier."""
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return model.model(**inputs).logits


def autocast(model: TaskModel, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Until the end of the block matrices are multiplied in `dtype`; as stored when None."""
    return torch.autocast(model.device.type, dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Autocast:
    """Another task with the backbone's and adapter's matrix products in a lower precision; weights, logits, losses and
    gradients keep theirs."""

    task: Task
    dtype: torch.dtype

    @property
    def metric(self) -> str:
        return self.task.metric

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        with autocast(model, self.dtype):
            return self.task.losses(model, batch)

    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        with autocast(model, self.dtype):
            return self.task.scores(model, rows, padding)


class Classification:
    """One of several labels; cross entropy."""

    def __init__(self, num_labels: int, metric: str = "accuracy") -> None:
        self.num_labels, self.metric = num_labels, metric

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits(model, batch), batch["labels"].to(model.device), reduction="none")

    @torch.inference_mode()
    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        predictions: list[int] = []
        labels: list[int] = []
        loss = 0.0
        for batch in make_batches(rows, ROWS, padding):
            found = logits(model, batch)
            loss += float(nn.functional.cross_entropy(found, batch["labels"].to(found.device), reduction="sum"))
            predictions += found.argmax(-1).tolist()  # (batch,)
            labels += batch["labels"].tolist()
        return {
            **classification_scores(predictions, labels, self.num_labels),
            "loss": loss / len(rows),
            "examples": len(rows),
        }


class Regression:
    """One number; squared error."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return (logits(model, batch).squeeze(-1) - batch["labels"].to(model.device).float()).square()

    @torch.inference_mode()
    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        predictions: list[float] = []
        values: list[float] = []
        for batch in make_batches(rows, ROWS, padding):
            predictions += logits(model, batch).squeeze(-1).tolist()
            values += batch["labels"].tolist()
        squares = [(p - v) ** 2 for p, v in zip(predictions, values, strict=True)]
        return {**regression_scores(predictions, values), "loss": sum(squares) / len(rows), "examples": len(rows)}
