"""FedRot-LoRA: rotational alignment of LoRA factors before their mean. Zhang et al., arXiv 2602.23638.

The paper's: (B_k Q^T)(Q A_k) = B_k A_k for every orthogonal Q, so clients with one and the same update may hold unlike
factors, and the mean of those is wrong. Each client's Q is the one that brings a factor nearest to the last round's
global one, by Procrustes; rounds alternate between A and B [code]; the first round is left as it is, because its global
B is zero [code]. Derived: Q depends on nothing but what the server has, so the server turns the replies, and nothing
else travels. What alignment lowers is a bound of the error of mean(B) mean(A): for unrelated clients, whose factors no
rotation brings together, the error itself may rise as well as fall.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedpeft.aggregation import align_factors
from fedpeft.federation.message import Reply, Tensors
from fedpeft.methods.common.fedavg import GlobalState, LoraFedAvg
from fedpeft.methods.common.lora_tensors import find_modules, get_factors, put_factors
from fedpeft.methods.common.options import FactorMeanOptions


class FactorMean(LoraFedAvg):
    """FedAvg over A, B and the head, where asked after the replies were turned to the last round's factors."""

    Options = FactorMeanOptions

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        if self.options.align == "rotation":
            replies = [align_reply(reply, state.tensors) for reply in replies]
        return super().aggregate(state, replies)


def align_reply(reply: Reply, reference: Tensors) -> Reply:
    """The reply with the same products in the factors nearest to the reference's: in A in odd rounds, in B in even."""
    if reply.round == 1:
        return reply
    tensors = dict(reply.tensors)
    for module in find_modules(tensors):
        own, last = get_factors(tensors, module), get_factors(reference, module)
        tensors |= put_factors(module, align_factors(own, last, "A" if reply.round % 2 else "B"))
    return replace(reply, tensors=tensors)
