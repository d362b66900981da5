"""Means of stacked points, and the convex weights of leave-one-out means."""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 64  # clients held in float64 at once: for a thousand, allocating memory costs more than the sums


def normalise_weights(weights: Tensor | None, count: int) -> Tensor:
    """Weights (count,) float64 that sum to 1, equal for None. Raises ValueError for negative or all zero ones."""
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    weights = weights.double()
    if weights.shape != (count,) or not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"Weights must be {count} finite numbers, none negative, not all zero. Received: {weights}.")
    return weights / weights.sum()


def weighted_mean(points: Tensor | Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """The mean (...) over clients, in the points' dtype; points (clients, ...) or one (...) each, weights (clients,).

    Accumulated in float64, `BLOCK` clients at a time, so low-precision points lose nothing before the last rounding.
    """
    fractions = normalise_weights(weights, len(points)).to(points[0].device)
    total = torch.zeros_like(points[0], dtype=torch.float64)
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        block = block if isinstance(block, Tensor) else torch.stack(list(block))  # (block, ...)
        total += torch.tensordot(fractions[start : start + BLOCK], block.double(), dims=1)
    return total.to(points[0].dtype)


def leave_one_out_mean_mix(weights: Tensor) -> Tensor:
    """Convex weights (clients, clients), zero on the diagonal: row k averages all the others.

    Raises ValueError for fewer than two clients, or when only one client has weight.
    """
    count = weights.shape[0]
    fractions = normalise_weights(weights, count)
    if count < 2 or (fractions == 1).any():
        raise ValueError(f"All-but-one needs at least two clients with weight. Received: {weights.tolist()}.")
    others = fractions.repeat(count, 1).fill_diagonal_(0)  # (clients, clients)
    return others / others.sum(1, keepdim=True)
