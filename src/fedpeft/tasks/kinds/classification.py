"""One of several labels; cross entropy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedpeft.adapters import TaskModel
from fedpeft.errors import UserError
from fedpeft.tasks.columns import read_label
from fedpeft.tasks.encode import Batch, Encoded, Padding, collate
from fedpeft.tasks.examples import ClientData, Example
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds.common.encoder import EncoderKind, get_logits, iterate_logits
from fedpeft.tasks.label_warnings import find_label_problems
from fedpeft.tasks.labels import LabelIndex, is_whole_number, require_labels, sort_labels
from fedpeft.tasks.metrics import score_labels
from fedpeft.tasks.sources import Tables

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig


class Classification(EncoderKind):
    """A label for each text or pair, among those of the training rows or those that the task names."""

    metrics = ("accuracy", "f1", "macro_f1", "matthews")
    finds_labels = True

    @classmethod
    def list_answer_columns(cls, config: "TaskConfig") -> tuple[str, ...]:
        return (config.label,)

    @classmethod
    def list_labels(cls, config: "TaskConfig", tables: Tables) -> list[str]:
        """Those given, or the distinct values of all rows but the test split's, numbers in order of size."""
        labels = config.labels
        if labels is None:
            rows = [row for split, of_split in tables.items() if split != "test" for row in of_split]
            labels = sort_labels({read_label(row, config.label) for row in rows})
            require_labels(labels, len(rows), config.label)
        if config.metric == "f1" and len(labels) != 2:
            raise UserError(f"task.metric: f1 is of label 1 of two, received labels {', '.join(labels)}; use macro_f1")
        return labels

    @classmethod
    def make_example(cls, config: "TaskConfig", row: Row, labels: LabelIndex) -> Example:
        text, text_pair = cls.read_texts(config, row)
        name = read_label(row, config.label, known=labels.positions)
        if config.labels is not None and name not in labels.positions and is_whole_number(name):
            index = int(name)  # the task names the labels that the column holds by index
            if 0 <= index < len(config.labels):
                return Example(text, index, text_pair)
        return Example(text, labels.require(name, row["@where"]), text_pair)

    @classmethod
    def find_problems(cls, labels: Sequence[str], counts: Sequence[int]) -> list[str]:
        return find_label_problems(dict(zip(labels, counts, strict=True)))

    @classmethod
    def check_clients(cls, clients: Sequence[ClientData], labels: Sequence[str]) -> None:
        """Raises UserError where a label is to be predicted that no client can learn."""
        learned = {example.label for client in clients for example in client.train}
        for client in clients:
            for example in (*client.validation, *client.test):
                if example.label not in learned:
                    raise UserError(
                        f"client {client.id!r}: label {labels[example.label]!r} is in its validation or test rows and "
                        "in nobody's training rows; give more training rows or leave the label out"
                    )

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(get_logits(model, batch), batch["labels"].to(model.device), reduction="none")

    @torch.inference_mode()
    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        predictions: list[int] = []
        labels: list[int] = []
        loss = 0.0
        for logits, targets in iterate_logits(model, examples, padding):
            loss += float(nn.functional.cross_entropy(logits, targets.to(logits.device), reduction="sum"))
            predictions += logits.argmax(-1).tolist()  # (batch,)
            labels += targets.tolist()
        return {
            **score_labels(predictions, labels, len(self.labels)),
            **self.score_own([self.labels[i] for i in predictions], [self.labels[i] for i in labels]),
            "loss": loss / len(examples),
            "examples": len(examples),
        }

    def predict(
        self, model: TaskModel, examples: Sequence[Encoded], padding: Padding, **writing: Any
    ) -> list[dict[str, Any]]:
        probabilities = get_logits(model, collate(examples, padding)).softmax(-1)  # (examples, labels)
        return [{"label": self.labels[int(row.argmax())], "probability": float(row.max())} for row in probabilities]
