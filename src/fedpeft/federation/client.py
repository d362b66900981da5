"""The client's side of a round: its data, its own state, and what a method may ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedpeft.adapters import Slot
from fedpeft.budgets import Allotment
from fedpeft.federation.message import Scalar, Tensors
from fedpeft.federation.randomness import generator
from fedpeft.tasks.encode import Encoded, batches
from fedpeft.tasks.metrics import classification_scores


@dataclass(frozen=True)
class ClientSpec:
    """What the server may know of a client: its id, its number of training rows, and what it can carry."""

    id: str
    examples: int
    allotment: Allotment = field(default_factory=Allotment)


@dataclass
class ClientState:
    """What a client keeps between rounds; checkpointed where the client lives."""

    trained: Tensors | None = None  # adapter and head as they stood after its last local training
    kept: Tensors = field(default_factory=dict)  # tensors a method keeps at the client
    scalars: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Padding:
    """How the tokenizer pads: the id, and the side ("left" or "right")."""

    id: int
    side: str


@dataclass
class Client:
    """One client where its data lives. `splits` holds its encoded rows; `initial` the start every client derives."""

    spec: ClientSpec
    splits: dict[str, list[Encoded]]
    num_labels: int
    padding: Padding
    initial: Tensors
    seed: int
    local: ClientState = field(default_factory=ClientState)

    def generator(self, purpose: str, round_: int) -> torch.Generator:
        """A generator of this client's own, the same for every engine and after every resume."""
        return generator(self.seed, purpose, round_, self.spec.id)

    def batches(self, split: str, size: int, shuffle: torch.Generator | None = None) -> Iterator[dict[str, Tensor]]:
        """Batches of a split; shuffled by the generator, or sorted by length when none is given."""
        return batches(self.splits[split], size, self.padding.id, self.padding.side, shuffle)

    def scores(self, model: Slot, split: str, batch_size: int = 32) -> dict[str, float]:
        """Loss and metrics of the model as it stands on a split of this client's rows."""
        predictions: list[int] = []
        labels: list[int] = []
        total = 0.0
        with torch.inference_mode():
            for batch in self.batches(split, batch_size):
                loss, logits = forward(model, batch)
                predictions += logits.argmax(-1).tolist()  # (batch,)
                labels += batch["labels"].tolist()
                total += float(loss) * len(batch["labels"])
        return {
            **classification_scores(predictions, labels, self.num_labels),
            "loss": total / len(labels),
            "examples": len(labels),
        }


def forward(model: Slot, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss () and logits (batch, labels) of one batch of `Client.batches`."""
    device = next(model.model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "rows"}
    output = model.model(**inputs)
    return output.loss, output.logits
