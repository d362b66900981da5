"""Choosing the largest configuration that a client's budget holds [choice]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpeft.budgets.memory import MemoryModel
from fedpeft.budgets.search_space import Candidate, SearchSpace, list_candidates
from fedpeft.budgets.shape import ModelShape
from fedpeft.budgets.step_time import TimeModel
from fedpeft.errors import UserError
from fedpeft.units import MIB


@dataclass(frozen=True)
class Budget:
    """What a client has for one local training; None is no limit."""

    memory_mib: float
    uplink_mib_per_round: float | None = None
    seconds_per_round: float | None = None

    def allows(self, candidate: Candidate, steps: int) -> bool:
        """Whether the candidate keeps within every limit, in a round of `steps` steps."""
        uplink = math.inf if self.uplink_mib_per_round is None else self.uplink_mib_per_round
        seconds = math.inf if self.seconds_per_round is None else self.seconds_per_round
        return (
            candidate.memory_mib <= self.memory_mib
            and candidate.uplink_mib <= uplink
            and candidate.seconds * steps <= seconds
        )


def choose(
    shape: ModelShape,
    memory: MemoryModel,
    time: TimeModel,
    budget: Budget,
    space: SearchSpace,
    subject: str = "this budget",
) -> Candidate:
    """Returns the largest configuration of the search space that the budget allows, and what it takes.

    Preference [choice]: first the most trained parameters, since all else is only the means; among equals the most
    layers, then the highest rank (few dimensions in many places serve better than many in few), then the highest
    density. Micro-batch and checkpointing change results by rounding only: of those that fit, the fastest. The order
    does not depend on the budget, so a larger budget never gives fewer trained parameters.

    Raises UserError, one line that starts with `subject`, when nothing fits: what the smallest configuration needs, and
    what to do.
    """
    steps = _count_steps(budget, space, subject)
    candidates = list_candidates(shape, memory, time, space)
    allowed = [candidate for candidate in candidates if budget.allows(candidate, steps)]
    if not allowed:
        raise UserError(f"{subject}: {_explain_misfit(shape, memory, candidates, budget, steps)}")
    return max(allowed, key=lambda candidate: _score(shape, candidate))


def _score(shape: ModelShape, candidate: Candidate) -> tuple[float, ...]:
    """What is compared, in this order: the larger, the better."""
    own = candidate.resources
    assert own.rank is not None and own.layers is not None and own.micro_batch is not None
    learned = (shape.count_trained(own), len(own.layers), own.rank, own.density)
    return *learned, -candidate.seconds, not own.checkpointing, own.micro_batch


def _count_steps(budget: Budget, space: SearchSpace, subject: str) -> int:
    """Optimiser steps of a round; 0 where no limit depends on them."""
    if space.examples is not None:
        return -(-space.examples // space.batch_size)
    if budget.seconds_per_round is not None:
        raise UserError(
            f"{subject}: a limit of {budget.seconds_per_round:g} seconds per round needs to know the examples of a "
            "round; state how many"
        )
    return 0


def _explain_misfit(
    shape: ModelShape, memory: MemoryModel, candidates: Sequence[Candidate], budget: Budget, steps: int
) -> str:
    """Which limit is too low for every candidate, what the smallest needs, and what to do."""
    least = min(candidate.memory_mib for candidate in candidates)
    if least > budget.memory_mib:
        weights = shape.weight_bytes / MIB
        training = max(0, least - memory.libraries_mib - weights)
        return (
            f"{budget.memory_mib:g} MiB is less than the {math.ceil(least)} MiB that the smallest configuration of "
            f"this backbone needs (libraries {memory.libraries_mib:.0f}, weights {weights:.0f}, training "
            f"{training:.0f}); give at least that, shorter texts, or a smaller backbone"
        )
    least = min(candidate.uplink_mib for candidate in candidates)
    if budget.uplink_mib_per_round is not None and least > budget.uplink_mib_per_round:
        return (
            f"{budget.uplink_mib_per_round:g} MiB of uplink is less than the {least:.3f} MiB that the smallest "
            "adapter and head take; give at least that, or a smaller backbone"
        )
    least = min(candidate.seconds for candidate in candidates) * steps
    if budget.seconds_per_round is not None and least > budget.seconds_per_round:
        return (
            f"{budget.seconds_per_round:g} s is less than the {least:.1f} s that a round of the smallest configuration "
            f"takes ({steps} steps); give at least that, fewer examples, shorter texts, or a smaller backbone"
        )
    return (
        f"no configuration keeps within {budget.memory_mib:g} MiB and the other limits at once, though each alone can "
        "be met; raise one of them"
    )
