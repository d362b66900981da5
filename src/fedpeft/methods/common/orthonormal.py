"""LoReFT's R at the server: the check that replies keep orthonormal rows, and the retraction after an average."""

import torch

from fedpeft.adapters import find_interventions
from fedpeft.aggregation import polar
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


def retract_r(tensors: Tensors) -> Tensors:
    """The tensors with every R replaced by its polar factor, the nearest matrix with orthonormal rows [derived]."""
    return tensors | {r: polar(tensors[r]) for r, _, _ in find_interventions(tensors)}  # R: (groups, rank, d)
