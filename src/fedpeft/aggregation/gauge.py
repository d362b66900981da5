"""The gauge of an intervention: (QR, QW, Qb) is the same edit as (R, W, b) for every orthogonal r x r matrix Q."""

import torch
from torch import Tensor

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


def _concat_parts(R: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return torch.cat([R, W, b.unsqueeze(-1)], dim=-1)  # (..., r, 2 d + 1)
