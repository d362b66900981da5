"""Geometric medians, all of them from one Gram matrix.

The geometric median of points x_j with weights w_j minimises sum_j w_j ||x_j - z||. Every iterate of Weiszfeld's
method is a convex combination z = Xp of the points, and with G the Gram matrix of the points about any centre

    ||x_j - Xp||^2 = G_jj - 2 (Gp)_j + p^T G p,

so iterations need only (clients x clients) numbers: one pass over the d coordinates for G, one for the result, and
the leave-one-out medians of all clients are iterated together. [derived]

Ours [choice], for exactness: the centre of G is the client of median norm, which a minority cannot push away, so
that huge outliers do not cost the honest distances their digits; and iterations start at the mean or at the best of
the points where one is better. A median that lies on a point is then found at once, and later iterates, which only
get better, cannot land on one.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedpeft.aggregation.mean import leave_one_out_mean_mix, normalise_weights

CHUNK = 2**12  # coordinates of every client held in float64 at once; twice as fast where a core's cache holds them
ITERATIONS = 1000  # at most, of 0.1 ms; ten to forty suffice unless a median lies close to a point
TOLERANCE = 1e-10  # relative change of each convex weight at which iterations stop
Points = Tensor | Sequence[Tensor]  # (clients, d), or one (d,) each

_TINY = torch.finfo(torch.float64).tiny
_ROUNDING = 32 * torch.finfo(torch.float64).eps  # of a squared distance computed from G, relative to its terms


def gram(points: Points, chunk: int = CHUNK) -> Tensor:
    """The inner products (clients, clients) float64 of the points, centred at the point of median norm.

    Extra memory is clients x chunk. Raises ValueError when the points are not vectors of one length.
    """
    width = _check_width(points)
    norms = torch.stack([point.norm() for point in points])  # (clients,)
    centre = points[int(norms.argsort()[(len(points) - 1) // 2])]
    total = torch.zeros(len(points), len(points), dtype=torch.float64, device=centre.device)
    for part in _split_width(width, chunk):
        block = _take_block(points, part) - centre[part].double()  # (clients, chunk)
        total.addmm_(block, block.T)
    return total


def combine(mix: Tensor, points: Points, chunk: int = CHUNK) -> Tensor:
    """Weighted sums (m, d) of the points, weights (m, clients), in the points' dtype; summed in float64 by chunks."""
    width = _check_width(points)
    mix = mix.to(points[0].device, torch.float64)
    combined = points[0].new_empty(mix.shape[0], width)
    for part in _split_width(width, chunk):
        combined[:, part] = mix @ _take_block(points, part)  # (m, chunk)
    return combined


def geometric_median_mix(
    inner: Tensor, weights: Tensor | None = None, iterations: int = ITERATIONS, tolerance: float = TOLERANCE
) -> Tensor:
    """Convex weights (clients,) of the geometric median, from the (clients, clients) Gram matrix of `gram`.

    Raises ValueError for a Gram matrix that is not finite, or for weights that are negative or all zero.
    """
    return _weiszfeld(inner, normalise_weights(weights, len(inner))[None], iterations, tolerance)[0]


def leave_one_out_median_mix(
    inner: Tensor, weights: Tensor | None = None, iterations: int = ITERATIONS, tolerance: float = TOLERANCE
) -> Tensor:
    """Convex weights (clients, clients), zero on the diagonal: row k gives the geometric median of all the others.

    Two points of equal weight have no unique median and their mean is taken, so with three clients this is the
    leave-one-out mean. Raises ValueError as `geometric_median_mix`, and for fewer than two clients with weight.
    """
    others = leave_one_out_mean_mix(normalise_weights(weights, len(inner)))
    return _weiszfeld(inner, others, iterations, tolerance)


def geometric_median(points: Points, weights: Tensor | None = None) -> Tensor:
    """The geometric median (d,) of points (clients, d), weights (clients,), in the points' dtype."""
    return combine(geometric_median_mix(gram(points), weights)[None], points)[0]


def leave_one_out_medians(points: Points, weights: Tensor | None = None) -> Tensor:
    """The geometric medians (clients, d) of all points but one, in the points' dtype; row k leaves out point k."""
    return combine(leave_one_out_median_mix(gram(points), weights), points)


def _weiszfeld(inner: Tensor, weights: Tensor, iterations: int, tolerance: float) -> Tensor:
    """The convex weights of m medians, from weights (m, clients) that are zero for points outside of a problem.

    Weiszfeld's step with the correction of Vardi and Zhang (PNAS 2000) where the iterate is one of the points: the
    step is shortened by that point's weight over the force of the others, to nothing when the point is the median.
    """
    inner = inner.double()
    if not torch.isfinite(inner).all():
        raise ValueError("The Gram matrix must be finite, so must every client's values. Received: nan or inf.")
    weights = weights.to(inner.device)
    diagonal = inner.diagonal()  # (clients,)
    mix = _choose_start(inner, weights)  # (m, clients)
    for _ in range(iterations):
        product = mix @ inner  # (m, clients)
        own = (product * mix).sum(1, keepdim=True)  # (m, 1)
        square = diagonal - 2 * product + own  # (m, clients)
        on = square <= _ROUNDING * (diagonal + own)
        pull = torch.where(on, 0, weights / square.clamp_min(_TINY).sqrt())
        total = pull.sum(1, keepdim=True)  # (m, 1)
        away = pull - total * mix  # (m, clients): the force is || X away ||
        force = ((away @ inner) * away).sum(1, keepdim=True).clamp_min(0).sqrt()
        stay = ((weights * on).sum(1, keepdim=True) / force.clamp_min(_TINY)).clamp_max(1)
        step = (1 - stay) * (pull / total.clamp_min(_TINY) - mix)
        mix = mix + step
        if bool((step.abs() <= tolerance * mix).all()):
            break
    return mix


def _choose_start(inner: Tensor, weights: Tensor) -> Tensor:
    """Convex weights (m, clients) of each problem's mean, or of its best point where that is clearly better."""
    diagonal = inner.diagonal()
    between = (diagonal[:, None] + diagonal - 2 * inner).clamp_min(0).sqrt()  # (clients, clients)
    product = weights @ inner  # (m, clients)
    square = diagonal - 2 * product + (product * weights).sum(1, keepdim=True)
    at_mean = (weights * square.clamp_min(0).sqrt()).sum(1)  # (m,): the sum that the median minimises
    at_best, best = (weights @ between).masked_fill(weights == 0, torch.inf).min(1)
    point = torch.nn.functional.one_hot(best, len(inner)).double()
    # By more than rounding, because of two points neither is better than their mean.
    better = at_best < (1 - 1e-6) * at_mean  # (m,)
    return torch.where(better[:, None], point, weights)


def _check_width(points: Points) -> int:
    shapes = {tuple(point.shape) for point in points}
    if len(shapes) != 1 or len(width := next(iter(shapes))) != 1:
        raise ValueError(f"Points must be vectors of one length. Received: shapes {sorted(shapes)}.")
    return width[0]


def _split_width(width: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, width, chunk))


def _take_block(points: Points, part: slice) -> Tensor:
    return torch.stack([point[part] for point in points]).double()  # (clients, chunk)
