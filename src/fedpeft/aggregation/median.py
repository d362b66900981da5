"""Geometric medians, all of them from one Gram matrix.

Every Weiszfeld iterate is a convex combination Xw of the points, and with G the Gram matrix of the centred points

    ||x_j - Xw||^2 = G_jj - 2 (Gw)_j + w^T G w,

so iterations need only (clients x clients) numbers: one pass over the d coordinates for G, one for the result, and
the leave-one-out medians of all clients are iterated together. [derived]
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpeft.aggregation.mean import normalised

CHUNK = 2**20  # coordinates held in float64 at once
Points = Tensor | Sequence[Tensor]  # (clients, d), or one (d,) each


def _chunks(points: Points, chunk: int) -> list[tuple[int, int]]:
    width = points[0].numel()
    return [(start, min(start + chunk, width)) for start in range(0, width, chunk)]


def _stack(points: Points, start: int, stop: int) -> Tensor:
    return torch.stack([point[start:stop] for point in points]).double()  # (clients, chunk)


def gram(points: Points, chunk: int = CHUNK) -> Tensor:
    """(clients, clients) float64 inner products of the points about their mean; extra memory is clients x chunk."""
    total = torch.zeros(len(points), len(points), dtype=torch.float64, device=points[0].device)
    for start, stop in _chunks(points, chunk):
        block = _stack(points, start, stop)
        block -= block.mean(0)
        total += block @ block.T
    return total


def combine(mix: Tensor, points: Points, chunk: int = CHUNK) -> Tensor:
    """(m, clients) weights times the points -> (m, d), in the points' dtype."""
    parts = [mix @ _stack(points, start, stop) for start, stop in _chunks(points, chunk)]
    return torch.cat([part.to(points[0].dtype) for part in parts], dim=1)


def _medians(inner: Tensor, weights: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Weiszfeld for m problems at once: weights (m, clients), zero where a point is not part of the problem.

    Vardi and Zhang's correction (PNAS 2000) keeps an iterate that lands on a point from sticking there unless that
    point is the median. Each problem starts at its mean; all stop when none moves by more than `tolerance` of the
    points' scale.
    """
    inner = inner.double()
    if not torch.isfinite(inner).all():
        raise ValueError("The Gram matrix is not finite: a client's values are. Received: nan or inf.")
    diagonal = inner.diagonal()  # (clients,)
    scale = diagonal.max().sqrt()
    mix = weights / weights.sum(1, keepdim=True)  # (m, clients)
    if scale == 0:  # all points are one point
        return mix
    at = 1e-9 * scale  # nearer than this is on the point: G's own rounding is about 1e-8 of a squared distance
    for _ in range(iterations):
        product = mix @ inner  # (m, clients)
        square = diagonal - 2 * product + (product * mix).sum(1, keepdim=True)
        distance = square.clamp_min(0).sqrt()  # (m, clients)
        on = (distance <= at) & (weights > 0)
        pull = torch.where(on, 0.0, weights / distance.clamp_min(at))  # (m, clients)
        target = pull / pull.sum(1, keepdim=True).clamp_min(1e-300)  # the Weiszfeld step without the point stood on
        held = (weights * on).sum(1, keepdim=True)  # (m, 1) weight of the point stood on
        # R = || sum_j pull_j (x_j - y) ||: how hard the others pull away from here
        away = pull - pull.sum(1, keepdim=True) * mix
        force = ((away @ inner) * away).sum(1, keepdim=True).clamp_min(0).sqrt()
        stay = torch.where(held > 0, (held / force.clamp_min(1e-300)).clamp_max(1), 0.0)
        step = (1 - stay) * (target - mix)
        mix = mix + step
        moved = ((step @ inner) * step).sum(1).clamp_min(0).sqrt()
        if bool((moved <= tolerance * scale).all()):
            break
    return mix


def geometric_median_mix(
    inner: Tensor, weights: Tensor | None = None, iterations: int = 200, tolerance: float = 1e-10
) -> Tensor:
    """Convex weights (clients,) of the geometric median, from the (clients, clients) Gram matrix of `gram`."""
    share = normalised(weights, inner.shape[0])
    return _medians(inner, share[None], iterations, tolerance)[0]


def leave_one_out_median_mix(
    inner: Tensor, weights: Tensor | None = None, iterations: int = 200, tolerance: float = 1e-10
) -> Tensor:
    """(clients, clients) convex weights: row k is the geometric median of all the others, zero on the diagonal.

    Two points have no unique median; started at the mean, Weiszfeld stays there, so with three clients this is the
    leave-one-out mean. Raises ValueError for fewer than two clients.
    """
    count = inner.shape[0]
    if count < 2:
        raise ValueError(f"All-but-one needs at least two clients. Received: {count}.")
    others = normalised(weights, count).repeat(count, 1).fill_diagonal_(0)
    return _medians(inner, others, iterations, tolerance)


def geometric_median(points: Points, weights: Tensor | None = None) -> Tensor:
    """The geometric median (d,) of points (clients, d)."""
    return combine(geometric_median_mix(gram(points), weights)[None], points)[0]


def leave_one_out_medians(points: Points, weights: Tensor | None = None) -> Tensor:
    """(clients, d): row k is the geometric median of all points but k."""
    return combine(leave_one_out_median_mix(gram(points), weights), points)
