"""FedAvg + LoReFT: the ablation baseline of FedReFT (arXiv 2508.20295), one global mean of the interventions.

The paper's: the plain mean of R, W and b. The mean of orthonormal R's is not orthonormal, so ours [derived] puts
every R back on the Stiefel manifold by its polar factor after aggregation; `retract: false` is the paper's plain mean.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field

from fedpeft.adapters import ReftOptions, find_interventions
from fedpeft.aggregation import polar
from fedpeft.federation.message import Reply, Tensors
from fedpeft.methods.common.fedavg import FedAvg, GlobalState
from fedpeft.methods.common.options import MeanOptions


class FedAvgLoReftOptions(MeanOptions):
    lr: float = Field(4e-3, gt=0, description="learning rate of the first round")
    adapter: ReftOptions = Field(default_factory=ReftOptions, description="the interventions each client trains")
    retract: bool = Field(True, description="put the mean of the R's back on the manifold of orthonormal rows")


class FedAvgLoReft(FedAvg):
    """FedAvg over R, W and b, with retraction."""

    Options = FedAvgLoReftOptions
    uses_client_state = False

    def rejection_reason(self, state: GlobalState, reply: Reply) -> str | None:
        return find_not_orthonormal(reply.tensors) if self.options.adapter.variant == "loreft" else None

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        moved = super().aggregate(state, replies)
        orthonormal = self.options.retract and self.options.adapter.variant == "loreft"
        return replace(moved, tensors=retract_r(moved.tensors)) if orthonormal else moved


def find_not_orthonormal(tensors: Tensors) -> str | None:
    """Which R of a reply lacks orthonormal rows; None when all have them. Local training keeps them to 1e-5."""
    for r, _, _ in find_interventions(tensors):
        square = tensors[r].double() @ tensors[r].double().mT  # (groups, rank, rank)
        if not torch.allclose(square, torch.eye(square.shape[-1], dtype=square.dtype, device=square.device), atol=1e-3):
            return f"{r}: its rows are not orthonormal"
    return None


def retract_r(tensors: Tensors) -> Tensors:
    """The same tensors with every R replaced by its polar factor, the nearest with orthonormal rows."""
    return tensors | {r: polar(tensors[r]) for r, _, _ in find_interventions(tensors)}  # R: (groups, rank, d)
