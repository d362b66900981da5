"""One number; squared error."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.columns import read_number
from fedpeft.tasks.encode import Batch, Encoded, Padding, collate
from fedpeft.tasks.examples import Example
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds.common.encoder import EncoderKind, get_logits, iterate_logits
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.metrics import score_numbers

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig


class Regression(EncoderKind):
    """A number for each text or pair: the value of the label column."""

    metrics = ("correlation", "pearson", "spearman")

    @classmethod
    def list_answer_columns(cls, config: "TaskConfig") -> tuple[str, ...]:
        return (config.label,)

    @classmethod
    def make_example(cls, config: "TaskConfig", row: Row, labels: LabelIndex) -> Example:
        text, text_pair = cls.read_texts(config, row)
        return Example(text, 0, text_pair, value=read_number(row, config.label))

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Token ids with the value in the place of the label."""
        encoded = super().encode(examples)
        return [replace(row, label=example.value) for row, example in zip(encoded, examples, strict=True)]

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return (get_logits(model, batch).squeeze(-1) - batch["labels"].to(model.device).float()).square()

    @torch.inference_mode()
    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        predictions: list[float] = []
        values: list[float] = []
        for logits, targets in iterate_logits(model, examples, padding):
            predictions += logits.squeeze(-1).tolist()
            values += targets.tolist()
        squares = [(p - v) ** 2 for p, v in zip(predictions, values, strict=True)]
        return {
            **score_numbers(predictions, values),
            **self.score_own(predictions, values),
            "loss": sum(squares) / len(examples),
            "examples": len(examples),
        }

    def predict(
        self, model: TaskModel, examples: Sequence[Encoded], padding: Padding, **writing: Any
    ) -> list[dict[str, Any]]:
        logits = get_logits(model, collate(examples, padding))  # (examples, 1)
        return [{"number": value} for value in logits.squeeze(-1).tolist()]
