"""The largest configuration that a client's budget holds [choice]."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from fedpeft.budgets.memory import MIB, MemoryModel
from fedpeft.budgets.shape import ModelShape
from fedpeft.budgets.step_time import TimeModel
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

MASKED = (1.0, 0.5, 0.25)  # densities to choose from, for methods that mask before training


@dataclass(frozen=True)
class Budget:
    """What a client has for one local training; None is no limit."""

    memory_mib: float
    uplink_mib_per_round: float | None = None
    seconds_per_round: float | None = None


@dataclass(frozen=True)
class SearchSpace:
    """What a client would train if it could, and which levers its method takes."""

    max_length: int
    batch_size: int
    rank: int = 8  # 1 where the method's adapter has no rank to choose
    layers: int | None = None  # blocks counted from the top; None: all
    densities: tuple[float, ...] = (1.0,)  # of the rows of B; below 1 only for methods that mask before training
    examples: int | None = None  # rows trained on in a round, local epochs counted; needed for seconds_per_round


@dataclass(frozen=True)
class Candidate:
    """What one configuration takes."""

    resources: ClientResources
    memory_mib: float
    uplink_mib: float
    seconds: float  # per step

    def fits(self, budget: Budget, steps: int) -> bool:
        """Whether all limits hold; a round has `steps` steps."""
        uplink = math.inf if budget.uplink_mib_per_round is None else budget.uplink_mib_per_round
        seconds = math.inf if budget.seconds_per_round is None else budget.seconds_per_round
        return self.memory_mib <= budget.memory_mib and self.uplink_mib <= uplink and self.seconds * steps <= seconds


def choose(
    shape: ModelShape,
    memory: MemoryModel,
    time: TimeModel,
    budget: Budget,
    wanted: SearchSpace,
    who: str = "this budget",
) -> Candidate:
    """The largest configuration that fits, and what it takes.

    Preference [choice]: first the most trained parameters, since all else is only the means; among equals the most
    layers, then the highest rank (few dimensions in many places serve better than many in few), then the highest
    density. Micro-batch and checkpointing change no result but rounding: of those that fit, the fastest. The
    order does not depend on the budget, so a larger budget never gives fewer trained parameters.

    Raises UserError, one line that starts with `who`, when nothing fits: what the least would need, and what helps.
    """
    steps = _steps(budget, wanted, who)
    options = list_candidates(shape, memory, time, wanted)
    fitting = [need for need in options if need.fits(budget, steps)]
    if not fitting:
        raise UserError(f"{who}: {_why(shape, memory, options, budget, steps)}")
    return max(fitting, key=lambda need: _preference(shape, need))


def list_candidates(shape: ModelShape, memory: MemoryModel, time: TimeModel, wanted: SearchSpace) -> list[Candidate]:
    """Every configuration there is, with what it takes."""
    return [
        Candidate(
            resources,
            memory.predict(shape, wanted.max_length, resources.micro_batch or wanted.batch_size, resources),
            shape.uplink_bytes(resources) / MIB,
            time.step(shape, wanted.max_length, wanted.batch_size, resources),
        )
        for resources in _allotments(shape, wanted)
    ]


def _allotments(shape: ModelShape, wanted: SearchSpace) -> Iterator[ClientResources]:
    ranks, pieces = _halvings(wanted.rank), _halvings(wanted.batch_size)
    most = min(wanted.layers or shape.blocks, shape.blocks)
    for count, rank, density, rows, again in product(
        range(most, 0, -1), ranks, wanted.densities, pieces, (False, True)
    ):
        yield ClientResources(rank, shape.top(count), density, rows, again)


def _halvings(most: int) -> list[int]:
    """most, half of it and so on down to 1."""
    return [most, *_halvings(most // 2)] if most > 1 else [1]


def _preference(shape: ModelShape, need: Candidate) -> tuple[float, ...]:
    a = need.resources
    assert a.rank is not None and a.layers is not None and a.micro_batch is not None
    return shape.trained(a), len(a.layers), a.rank, a.density, -need.seconds, not a.checkpointing, a.micro_batch


def _steps(budget: Budget, wanted: SearchSpace, who: str) -> int:
    if wanted.examples is None:
        if budget.seconds_per_round is not None:
            raise UserError(f"{who}: a limit of seconds per round needs the rows of a round; state how many")
        return 0
    return -(-wanted.examples // wanted.batch_size)


def _why(shape: ModelShape, memory: MemoryModel, options: list[Candidate], budget: Budget, steps: int) -> str:
    least = min(option.memory_mib for option in options)
    if least > budget.memory_mib:
        weights = shape.weight_bytes / MIB
        parts = f"libraries {memory.libraries_mib:.0f}, weights {weights:.0f}, "
        parts += f"training {max(0, least - memory.libraries_mib - weights):.0f}"
        return (
            f"{budget.memory_mib:g} MiB is less than the {math.ceil(least)} MiB that the smallest configuration of "
            f"this backbone needs ({parts}); give at least that, shorter texts, or a smaller backbone"
        )
    least = min(option.uplink_mib for option in options)
    if budget.uplink_mib_per_round is not None and least > budget.uplink_mib_per_round:
        return (
            f"{budget.uplink_mib_per_round:g} MiB of uplink is less than the {least:.3f} MiB that the smallest "
            "adapter and head take; give at least that, or a smaller backbone"
        )
    least = min(option.seconds for option in options) * steps
    if budget.seconds_per_round is not None and least > budget.seconds_per_round:
        return (
            f"{budget.seconds_per_round:g} s is less than the {least:.1f} s that a round of the smallest configuration "
            f"takes ({steps} steps); give at least that, fewer rows, shorter texts, or a smaller backbone"
        )
    return (
        f"no configuration keeps within {budget.memory_mib:g} MiB and the other limits at once, though each alone can "
        "be met; raise one of them"
    )
