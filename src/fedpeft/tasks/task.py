"""What a client holds of its task: how examples become tokens, what is learned, and how it is scored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Batch, Encoded, Padding
from fedpeft.tasks.examples import Example


class Task(ABC):
    """A task set up for the clients of one experiment. The batches are those of `fedpeft.tasks.encode`."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The score that tables show."""

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples as token ids, in their order."""

    @abstractmethod
    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        """(batch,): each example's loss, summed over its labels (`fedpeft.tasks.encode.count_labels`)."""

    @abstractmethod
    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """The metrics over the examples, with `loss`, their mean loss per label, and `examples`, how many they are."""

    @abstractmethod
    def predict(
        self, model: TaskModel, examples: Sequence[Encoded], padding: Padding, **writing: Any
    ) -> list[dict[str, Any]]:
        """What the model says of each example, as `fedpeft predict` prints it.

        `writing` is for decoders: `new_tokens`, the most that is written, and options of transformers' `generate`.
        """
