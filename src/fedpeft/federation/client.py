"""The client's side of a round: its data, its own state, and what a method may ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch

from fedpeft.adapters import Company, Slot, companies
from fedpeft.budgets import Allotment
from fedpeft.federation.message import Scalar, Tensors
from fedpeft.federation.randomness import generator
from fedpeft.federation.task import Task
from fedpeft.tasks.encode import Batch, Encoded, Padding, batches

TOGETHER = 16  # rows a cache computes at once: enough to keep a processor busy, no more than evaluation takes


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
        return batches(self.splits[split], size, self.padding, shuffle)

    @cached_property
    def company(self) -> dict[tuple[int, ...], Company]:
        """With which others of its split each row is computed for a cache, by its tokens."""
        found: dict[tuple[int, ...], Company] = {}
        for rows in self.splits.values():
            tokens = (row.input_ids + row.target for row in rows)
            found |= companies((row for row in tokens if row not in found), TOGETHER)
        return found

    def scores(self, model: Slot, split: str) -> dict[str, float]:
        """Loss and metrics of the model as it stands on a split of this client's rows."""
        return self.task.scores(model, self.splits[split], self.padding)
