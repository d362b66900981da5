"""FlexLoRA: the mean of the products, redistributed by SVD. Bai et al., arXiv 2402.11505.

The paper's: the server forms sum_k p_k s B_k A_k, takes its singular value decomposition, and sends each client the
top r_k directions. Exact up to that truncation. Derived: the SVD of the stacked factors needs no dense matrix. Ours
[choice]: singular values split evenly between B and A; a module is averaged over the clients that adapt it.
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from fedpeft.adapters import LoraOptions
from fedpeft.aggregation import concat_factors, truncate
from fedpeft.federation.message import Reply
from fedpeft.federation.method import MethodOptions, example_weights
from fedpeft.methods.common.ranks import (
    Ranked,
    RankedState,
    find_modules,
    get_factors,
    mean_heads,
    put_factors,
    replies_with,
)


class FlexLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="LoRA; `resources` give clients other ranks")


class FlexLora(Ranked):
    Options = FlexLoraOptions
    uses_client_state = False

    def aggregate(self, state: RankedState, replies: Sequence[Reply]) -> RankedState:
        tensors = state.tensors | mean_heads(replies)
        for module in find_modules(tensors):
            own = replies_with(replies, module)
            if own:
                mean = concat_factors([get_factors(reply.tensors, module) for reply in own], example_weights(own))
                rank = tensors[f"{module}.lora_A.weight"].shape[0]  # the largest of any client
                b, a = truncate(mean, rank)
                spare = (a == 0).all(1)  # directions that the sum does not have: B is zero, A may learn again
                tensors |= put_factors(
                    module, (b, torch.where(spare[:, None], get_factors(state.tensors, module)[1], a))
                )
        return RankedState(tensors, state.ranks)
