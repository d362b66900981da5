"""FlexLoRA: the mean of the products, redistributed by SVD. Bai et al., arXiv 2402.11505.

The paper's: the server forms sum_k p_k s B_k A_k, takes its singular value decomposition, and sends each client the
top r_k directions. Exact up to that truncation. Derived: the SVD of the stacked factors needs no dense matrix. Ours
[choice]: singular values split evenly between B and A; a module is averaged over the clients that adapt it.
"""

from collections.abc import Sequence

import torch

from fedpeft.aggregation import concat_factors, truncate
from fedpeft.federation.message import Reply
from fedpeft.federation.method import example_weights
from fedpeft.methods.common.lora_tensors import find_modules, get_factors, mean_heads, put_factors, replies_with
from fedpeft.methods.common.ranks import MixedRank, RankedState


class FlexLora(MixedRank):
    """The truncated SVD of the exact mean."""

    def aggregate(self, state: RankedState, replies: Sequence[Reply]) -> RankedState:
        tensors = state.tensors | mean_heads(replies)
        for module in find_modules(tensors):
            own = replies_with(replies, module)
            if own:
                mean = concat_factors([get_factors(reply.tensors, module) for reply in own], example_weights(own))
                _, old_a = get_factors(state.tensors, module)
                b, a = truncate(mean, old_a.shape[0])  # the largest rank of any client
                is_spare = (a == 0).all(1)  # directions that the sum does not have: B is zero there, A may learn again
                tensors |= put_factors(module, (b, torch.where(is_spare[:, None], old_a, a)))
        return RankedState(tensors, state.ranks)
