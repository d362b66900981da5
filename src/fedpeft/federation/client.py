"""The client's side of a round: its data, its own state, and what a method may ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.message import Tensors
from fedpeft.federation.randomness import generator
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Batch, Encoded, Padding, make_batches
from fedpeft.tasks.task import Task


@dataclass(frozen=True)
class ClientSpec:
    """What the server may know of a client: its id, its number of training rows, and what it can carry."""

    id: str
    examples: int
    resources: ClientResources = field(default_factory=ClientResources)


@dataclass
class ClientState:
    """What a client keeps between rounds; checkpointed where the client lives."""

    trained: Tensors | None = None  # adapter and head as they stood after its last local training
    kept: Tensors = field(default_factory=dict)  # tensors a method keeps at the client


@dataclass
class Client:
    """One client where its data lives. `splits` holds its encoded rows; `initial` the start every client derives."""

    spec: ClientSpec
    splits: dict[str, list[Encoded]]
    task: Task
    padding: Padding
    initial: Tensors
    seed: int
    local: ClientState = field(default_factory=ClientState)

    def generator(self, purpose: str, round_: int) -> torch.Generator:
        """A generator of this client's own, the same for every engine and after every resume."""
        return generator(self.seed, purpose, round_, self.spec.id)

    def batches(self, split: str, size: int, shuffle: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches of a split; shuffled by the generator, or sorted by length when none is given."""
        return make_batches(self.splits[split], size, self.padding, shuffle)

    @property
    def uses_checkpointing(self) -> bool:
        """Whether it was given activation checkpointing."""
        return self.spec.resources.checkpointing

    def iterate_token_ids(self) -> Iterator[list[tuple[int, ...]]]:
        """The token ids of its examples, split by split."""
        for rows in self.splits.values():
            yield [row.input_ids + row.target for row in rows]

    def scores(self, model: AdaptedModel, split: str) -> dict[str, float]:
        """Loss and metrics of the model as it stands on a split of this client's rows."""
        return self.task.scores(model, self.splits[split], self.padding)
