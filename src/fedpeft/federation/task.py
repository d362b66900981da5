"""What is learned and how it is scored: the part of a client's work that the kind of task decides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedpeft.adapters import Adapted
from fedpeft.tasks.encode import Batch, Encoded, Padding, batches
from fedpeft.tasks.metrics import classification_scores, regression_scores

ROWS = 32  # scored at once: like training, but without activations to keep
Models = Callable[[Sequence[int]], Adapted]  # by the rows' places: what runs them, one client's model or several's


def alone(model: Adapted) -> Models:
    """The same model for every row."""
    return lambda rows: model


class Task(Protocol):
    """A kind of task. The batches are those of `fedpeft.tasks.encode`."""

    @property
    def metric(self) -> str:
        """Which of the scores a table shows."""
        ...

    def losses(self, model: Adapted, batch: Batch) -> Tensor:
        """(batch,): each row's loss, summed over its labels that count (`fedpeft.tasks.encode.scored`)."""
        ...

    def predict(self, models: Models, rows: Sequence[Encoded], padding: Padding) -> list[Any]:
        """What `scores` needs to know of each row, as the models stand."""
        ...

    def scores(self, predictions: Sequence[Any], rows: Sequence[Encoded]) -> dict[str, float]:
        """The metrics over the rows, with `loss`, their mean per label, and `examples`."""
        ...


def logits(model: Adapted, batch: Batch) -> Tensor:
    """(batch, outputs) of a classifier."""
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return model.model(**inputs).logits


@dataclass(frozen=True)
class Autocast:
    """Another task with its matrix products in a lower precision: weights, sums, losses and gradients keep theirs."""

    task: Task
    dtype: torch.dtype

    @property
    def metric(self) -> str:
        return self.task.metric

    def losses(self, model: Adapted, batch: Batch) -> Tensor:
        with torch.autocast(model.device.type, self.dtype):
            return self.task.losses(model, batch)

    def predict(self, models: Models, rows: Sequence[Encoded], padding: Padding) -> list[Any]:
        with torch.autocast(models([0]).device.type, self.dtype):
            return self.task.predict(models, rows, padding)

    def scores(self, predictions: Sequence[Any], rows: Sequence[Encoded]) -> dict[str, float]:
        return self.task.scores(predictions, rows)


class Classification:
    """One of several labels; cross entropy."""

    def __init__(self, num_labels: int, metric: str = "accuracy") -> None:
        self.num_labels, self.metric = num_labels, metric

    def losses(self, model: Adapted, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits(model, batch), batch["labels"].to(model.device), reduction="none")

    @torch.inference_mode()
    def predict(self, models: Models, rows: Sequence[Encoded], padding: Padding) -> list[tuple[int, float]]:
        """Each row's most likely label, and the loss."""
        found: dict[int, tuple[int, float]] = {}
        for batch in batches(rows, ROWS, padding):
            places = batch["rows"].tolist()
            shares = logits(models(places), batch)  # (batch, labels)
            losses = nn.functional.cross_entropy(shares, batch["labels"].to(shares.device), reduction="none")
            said = zip(shares.argmax(-1).tolist(), losses.tolist(), strict=True)
            found |= dict(zip(places, said, strict=True))
        return [found[i] for i in range(len(rows))]

    def scores(self, predictions: Sequence[tuple[int, float]], rows: Sequence[Encoded]) -> dict[str, float]:
        labels, losses = zip(*predictions, strict=True)
        return {
            **classification_scores(labels, [int(row.label) for row in rows], self.num_labels),
            "loss": sum(losses) / len(rows),
            "examples": len(rows),
        }


class Regression:
    """One number; squared error."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def losses(self, model: Adapted, batch: Batch) -> Tensor:
        return (logits(model, batch).squeeze(-1) - batch["labels"].to(model.device).float()).square()

    @torch.inference_mode()
    def predict(self, models: Models, rows: Sequence[Encoded], padding: Padding) -> list[float]:
        """Each row's number."""
        found: dict[int, float] = {}
        for batch in batches(rows, ROWS, padding):
            places = batch["rows"].tolist()
            found |= dict(zip(places, logits(models(places), batch).squeeze(-1).tolist(), strict=True))
        return [found[i] for i in range(len(rows))]

    def scores(self, predictions: Sequence[float], rows: Sequence[Encoded]) -> dict[str, float]:
        values = [float(row.label) for row in rows]
        squares = [(p - v) ** 2 for p, v in zip(predictions, values, strict=True)]
        return {**regression_scores(predictions, values), "loss": sum(squares) / len(rows), "examples": len(rows)}
