"""Means of all the others in which those who are like a client count for more, from one Gram matrix [ours].

With D_kj = ||x_k - x_j||^2 client k hears client j by the weight D_kj^-P / sum_(i != k) D_ki^-P. Equal distances give
equal weights, the mean of the others; groups that lie far apart beside their own spread hardly hear each other. No
number of groups and no length has to be chosen.
"""

import torch
from torch import Tensor

POWER = 4  # [choice] a squared distance three times as large has 1/81 of the weight
_CLOSEST = 1e-6  # of the mean squared distance: identical clients are taken to be this far apart


def leave_one_out_similarity_mix(inner: Tensor) -> Tensor:
    """Convex weights (clients, clients), zero on the diagonal: row k is of all the others, by their likeness to k.

    `inner` is the (clients, clients) Gram matrix of `gram`. Raises ValueError for fewer than two clients, or for a
    matrix that is not finite.
    """
    count = len(inner)
    if count < 2 or not torch.isfinite(inner).all():
        raise ValueError(f"Likeness needs a finite Gram matrix of two clients or more. Received: {count} clients.")
    inner = inner.double()
    diagonal = inner.diagonal()  # (clients,)
    square = (diagonal[:, None] + diagonal - 2 * inner).clamp_min(0)  # (clients, clients)
    floor = (_CLOSEST * square.sum() / (count * (count - 1))).clamp_min(torch.finfo(torch.float64).tiny)
    square = square.clamp_min(float(floor)).fill_diagonal_(torch.inf)
    likeness = (square.min(1, keepdim=True).values / square) ** POWER  # (clients, clients), 1 for the nearest
    return likeness / likeness.sum(1, keepdim=True)
