"""LoReFT's R at the server: the check that replies keep orthonormal rows, and the retraction after an average."""

import torch
from torch import Tensor

from fedpeft.adapters import find_interventions
from fedpeft.aggregation import DependentRowsError, polar
from fedpeft.federation.message import Tensors

TOLERANCE = 1e-3  # of R R^T - I; local training keeps R to 1e-5


def find_not_orthonormal(tensors: Tensors) -> str | None:
    """A message that names the first R whose rows are not orthonormal, or None."""
    for r, _, _ in find_interventions(tensors):
        square = tensors[r].double() @ tensors[r].double().mT  # (groups, rank, rank)
        identity = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
        if not torch.allclose(square, identity, atol=TOLERANCE):
            return f"{r}: its rows are not orthonormal"
    return None


def retract_r(tensors: Tensors, last: Tensors) -> Tensors:
    """The tensors with every R replaced by its polar factor, the nearest matrix with orthonormal rows [derived].

    Of R and -R the mean has no such factor: an R whose rows are dependent stays as it is in `last` [ours], because the
    same clients may be drawn together again and again.
    """
    return tensors | {r: _retract_or(tensors[r], last[r]) for r, _, _ in find_interventions(tensors)}


def _retract_or(matrix: Tensor, last: Tensor) -> Tensor:
    try:
        return polar(matrix)  # (groups, rank, d)
    except DependentRowsError:
        return last
