"""Sums of low-rank updates in factors: never a dense d_out x d_in matrix where factors are smaller.

B (d_out, r) and A (r, d_in) stand for B A, a pair `Factors`. Arithmetic is float64, results have the inputs' dtype.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpeft.aggregation.mean import normalise_weights, weighted_mean

Factors = tuple[Tensor, Tensor]  # B (d_out, r), A (r, d_in)
_EPS = torch.finfo(torch.float64).eps


def concat_factors(factors: Sequence[Factors], weights: Sequence[float] | Tensor | None = None) -> Factors:
    """The exact sum_k w_k B_k A_k, as [w_1 B_1 | w_2 B_2 | ...] and [A_1; A_2; ...]; weights are 1 by default.

    Ranks may differ. Raises ValueError for no factors or for modules of different size.
    """
    if not factors:
        raise ValueError("A sum needs at least one pair of factors. Received: none.")
    if len({(b.shape[0], a.shape[1]) for b, a in factors}) > 1:
        raise ValueError(f"Factors must be of one module. Received: {[(b.shape, a.shape) for b, a in factors]}.")
    factor_weights = [1.0] * len(factors) if weights is None else [float(w) for w in weights]
    scaled = [(w * b.double()).to(b.dtype) for w, (b, _) in zip(factor_weights, factors, strict=True)]
    return torch.cat(scaled, 1), torch.cat([a for _, a in factors])


def truncate(factors: Factors, rank: int | None = None) -> Factors:
    """The nearest product of the given rank, as U sqrt(S) and sqrt(S) V^T; None is exact, the numerical rank.

    QR of both factors and an SVD of the small core: equal to the truncated SVD of the dense product [derived]. Signs
    are fixed: the entry of largest size in every column of B is positive. With a rank given, the result has exactly
    that rank, padded with zeros where the product has less. A singular value counts as zero up to the rounding of the
    sum, eps max(d_out, d_in, r) sum_i ||B[:, i]|| ||A[i]||, so terms that cancel leave nothing behind.
    Raises ValueError for a negative rank.
    """
    if rank is not None and rank < 0:
        raise ValueError(f"A rank is not negative. Received: {rank}.")
    b, a = factors
    wide_b, wide_a = b.double(), a.double()
    rounding = _EPS * max(b.shape[0], *a.shape) * (wide_b.norm(dim=0) * wide_a.norm(dim=1)).sum()
    q_b, r_b = torch.linalg.qr(wide_b)  # (d_out, m), (m, r)
    q_a, r_a = torch.linalg.qr(wide_a.mT)  # (d_in, n), (n, r)
    u, s, v = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)  # (m, k), (k,), (k, n)
    nonzero = int((s > rounding).sum())
    size = nonzero if rank is None else min(rank, nonzero)
    root = s[:size].sqrt()
    left, right = q_b @ u[:, :size] * root, root[:, None] * (v[:size] @ q_a.mT)
    if size:
        largest = left.abs().argmax(0, keepdim=True)  # (1, k)
        sign = torch.where(left.gather(0, largest)[0] < 0, -1.0, 1.0)
        left, right = left * sign, right * sign[:, None]
    result = left.to(b.dtype), right.to(a.dtype)
    return result if rank is None else pad_rank(result, rank)


def pad_rank(factors: Factors, rank: int) -> Factors:
    """The same product at a larger rank, with zeros added. Raises ValueError when the rank is smaller."""
    b, a = factors
    missing = rank - a.shape[0]
    if missing < 0:
        raise ValueError(f"Padding goes to a larger rank than {a.shape[0]}. Received: {rank}.")
    return torch.cat([b, b.new_zeros(b.shape[0], missing)], 1), torch.cat([a, a.new_zeros(missing, a.shape[1])])


def take_rank(factors: Factors, rank: int) -> Factors:
    """The first `rank` columns of B and rows of A. Raises ValueError when there are fewer."""
    b, a = factors
    if not 0 <= rank <= a.shape[0]:
        raise ValueError(f"Cutting goes to a rank of at most {a.shape[0]}. Received: {rank}.")
    return b[:, :rank].contiguous(), a[:rank].contiguous()


def frobenius_norm(factors: Factors) -> Tensor:
    """The norm ||B A||_F, () float64, by traces: ||B A||_F^2 = tr((B^T B)(A A^T))."""
    b, a = (t.double() for t in factors)
    return ((b.mT @ b) * (a @ a.mT)).sum().clamp_min(0).sqrt()


def row_energy(factors: Factors) -> Tensor:
    """The energy sum_i (B A)[d, i]^2 of every row d, (d_out,) float64, as B[d] (A A^T) B[d]^T [derived]."""
    b, a = (t.double() for t in factors)
    return ((b @ (a @ a.mT)) * b).sum(1).clamp_min(0)


def residual(pairs: Sequence[Factors], weights: Tensor | None = None) -> Factors:
    """Exact factors of mean(B_k A_k) - mean(B) mean(A), with weights (clients,); FedEx-LoRA (arXiv 2410.09432).

    It is the covariance of B and A over clients, so the running update of a covariance gives it in rank (K - 1) r
    [derived]: client k adds p_k P_(k-1) / P_k (B_k - mean before k) (A_k - mean before k), P_k = p_1 + ... + p_k.
    Stacking the clients and the means would take (K + 1) r. Raises ValueError for unlike shapes.
    """
    _require_alike(pairs)
    fractions = normalise_weights(weights, len(pairs)).tolist()
    b, a, total = pairs[0][0].double(), pairs[0][1].double(), fractions[0]
    left, right = [b[:, :0]], [a[:0]]
    for weight, (b_k, a_k) in zip(fractions[1:], pairs[1:], strict=True):
        pull = weight / (total + weight) if weight else 0.0
        step_b, step_a = b_k.double() - b, a_k.double() - a
        left.append(total * pull * step_b)
        right.append(step_a)
        b, a, total = b + pull * step_b, a + pull * step_a, total + weight
    return torch.cat(left, 1).to(pairs[0][0].dtype), torch.cat(right).to(pairs[0][1].dtype)


def ridge_corrected_mean(pairs: Sequence[Factors], weights: Tensor | None, ridge: float) -> Factors:
    """The factors mean(B) + dB and mean(A), dB = argmin ||(mean(B) + dB) mean(A) - mean(B_k A_k)||^2 + ridge ||dB||^2.

    Closed form of LoRA-FAIR's objective (arXiv 2411.14961) with r x r solves [derived]. Raises ValueError for a ridge
    that is not positive or for unlike shapes.
    """
    if not ridge > 0:
        raise ValueError(f"The ridge must be positive, or dB need not be unique. Received: {ridge}.")
    _require_alike(pairs)
    fractions = normalise_weights(weights, len(pairs))
    mean_b, mean_a = _mean_factors(pairs, fractions)
    b, a = mean_b.double(), mean_a.double()
    target = sum(
        (w * (p.double() @ (q.double() @ a.mT)) for w, (p, q) in zip(fractions, pairs, strict=True)),
        torch.zeros_like(b),
    )
    square = a @ a.mT  # (r, r)
    missing = target - b @ square  # (d_out, r)
    change = torch.linalg.solve(square + ridge * torch.eye(len(square), dtype=a.dtype, device=a.device), missing.mT).mT
    return (b + change).to(mean_b.dtype), mean_a


def _mean_factors(pairs: Sequence[Factors], weights: Tensor) -> Factors:
    b, a = zip(*pairs, strict=True)
    return weighted_mean(torch.stack(b), weights), weighted_mean(torch.stack(a), weights)


def _require_alike(pairs: Sequence[Factors]) -> None:
    shapes = [(tuple(b.shape), tuple(a.shape)) for b, a in pairs]
    if len(set(shapes)) != 1:
        raise ValueError(f"Means of factors need at least one pair, all of one shape. Received: {shapes}.")
