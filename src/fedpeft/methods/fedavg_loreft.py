"""FedAvg + LoReFT: the ablation baseline of FedReFT (arXiv 2508.20295), one global mean of the interventions.

The paper's: the plain mean of R, W and b. The mean of orthonormal R's is not orthonormal, so ours [derived] puts
every R back on the Stiefel manifold by its polar factor after aggregation; `retract: false` is the paper's plain mean.
"""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from fedpeft.adapters import ReftOptions
from fedpeft.federation.message import Reply
from fedpeft.methods.common.fedavg import FedAvg, GlobalState
from fedpeft.methods.common.options import MeanOptions
from fedpeft.methods.common.orthonormal import find_not_orthonormal, retract_r


class FedAvgLoReftOptions(MeanOptions):
    lr: float = Field(4e-3, gt=0, description="learning rate of the first round")
    adapter: ReftOptions = Field(default_factory=ReftOptions, description="the interventions that every client trains")
    retract: bool = Field(True, description="make the rows of the averaged R's orthonormal again")


class FedAvgLoReft(FedAvg):
    """FedAvg over R, W and b, with retraction."""

    Options = FedAvgLoReftOptions
    uses_client_state = False

    def rejection_reason(self, state: GlobalState, reply: Reply) -> str | None:
        return find_not_orthonormal(reply.tensors) if self.options.adapter.variant == "loreft" else None

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        stepped = super().aggregate(state, replies)
        retracts = self.options.retract and self.options.adapter.variant == "loreft"
        return replace(stepped, tensors=retract_r(stepped.tensors, state.tensors)) if retracts else stepped
