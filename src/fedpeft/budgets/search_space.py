"""What a budget chooses from: every configuration of a client, and what each one takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from fedpeft.acceleration import can_checkpoint
from fedpeft.budgets.memory import MemoryModel
from fedpeft.budgets.shape import ModelShape
from fedpeft.budgets.step_time import TimeModel
from fedpeft.resources import ClientResources
from fedpeft.units import MIB

MASKED_DENSITIES = (1.0, 0.5, 0.25)  # to choose from, for methods that mask before training [choice]


@dataclass(frozen=True)
class SearchSpace:
    """What a client trains where its budget has room for it, and the settings that its method can lower."""

    max_length: int  # tokens of every example
    batch_size: int  # examples per optimiser step
    rank: int = 8  # the highest; 1 where the method's adapter has no rank to choose
    layers: int | None = None  # blocks counted from the top; None: all
    densities: tuple[float, ...] = (1.0,)  # of the rows of B; below 1 only for methods that mask before training
    examples: int | None = None  # trained on in a round, local epochs counted; needed for seconds_per_round


@dataclass(frozen=True)
class Candidate:
    """One configuration and what it takes."""

    resources: ClientResources
    memory_mib: float
    uplink_mib: float
    seconds: float  # per step


def list_candidates(shape: ModelShape, memory: MemoryModel, time: TimeModel, space: SearchSpace) -> list[Candidate]:
    """Every configuration of the search space, with its predicted memory, uplink and seconds."""
    return [
        Candidate(
            resources,
            memory.predict(shape, space.max_length, resources.micro_batch or space.batch_size, resources),
            shape.estimate_uplink_bytes(resources) / MIB,
            time.predict(shape, space.max_length, space.batch_size, resources),
        )
        for resources in _list_resources(shape, space)
    ]


def _list_resources(shape: ModelShape, space: SearchSpace) -> Iterator[ClientResources]:
    ranks, micro_batches = _halve_repeatedly(space.rank), _halve_repeatedly(space.batch_size)
    layers = min(space.layers or shape.blocks, shape.blocks)
    for count, rank, density, micro_batch, checkpointing in product(
        range(layers, 0, -1), ranks, space.densities, micro_batches, (False, True) if can_checkpoint() else (False,)
    ):
        yield ClientResources(rank, shape.list_top_blocks(count), density, micro_batch, checkpointing)


def _halve_repeatedly(number: int) -> list[int]:
    """The number, half of it and so on down to 1, rounded down."""
    return [number, *_halve_repeatedly(number // 2)] if number > 1 else [1]
