"""The gauge of low-rank tensors: for every orthogonal r x r matrix Q, (QR, QW, Qb) is the same intervention as
(R, W, b), and (B Q^T, Q A) the same product as (B, A)."""

from typing import Literal

import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors

Intervention = tuple[Tensor, Tensor, Tensor]  # R (..., r, d), W (..., r, d), b (..., r)


def gauge(phi: Tensor, reference: Tensor) -> Tensor:
    """The orthogonal Q (..., r, r) that brings Q phi nearest to the reference, both (..., r, m), by Procrustes."""
    u, _, vh = torch.linalg.svd(reference.double() @ phi.double().mT)  # (..., r, r)
    return u @ vh


def align(R: Tensor, W: Tensor, b: Tensor, reference: Intervention) -> Intervention:
    """The same intervention in the gauge nearest to the reference's, by Procrustes on [R | W | b] [derived]."""
    q = gauge(_concat_parts(R, W, b), _concat_parts(*reference))  # (..., r, r)
    R_, W_, b_ = q @ R.double(), q @ W.double(), (q @ b.double().unsqueeze(-1)).squeeze(-1)
    return R_.to(R.dtype), W_.to(W.dtype), b_.to(b.dtype)


def align_factors(factors: Factors, reference: Factors, matched: Literal["A", "B"]) -> Factors:
    """The same product as (B Q^T, Q A), with the Q that brings A, or B, nearest to the reference's, by Procrustes.

    FedRot-LoRA (arXiv 2602.23638). B is (d_out, r), A (r, d_in); the reference is of the same shapes.
    """
    (b, a), (reference_b, reference_a) = factors, reference
    q = gauge(a, reference_a) if matched == "A" else gauge(b.mT, reference_b.mT)  # (r, r)
    return (b.double() @ q.mT).to(b.dtype), (q @ a.double()).to(a.dtype)


def _concat_parts(R: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return torch.cat([R, W, b.unsqueeze(-1)], dim=-1)  # (..., r, 2 d + 1)
