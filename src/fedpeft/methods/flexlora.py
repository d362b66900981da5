"""FlexLoRA: the mean of the products, redistributed by SVD. Bai et al., arXiv 2402.11505.

The paper's: the server forms sum_k p_k s B_k A_k, takes its singular value decomposition, and sends each client the
top r_k directions. Exact up to that truncation. Derived: the SVD of the stacked factors needs no dense matrix. Ours
[choice]: singular values split evenly between B and A; a module is averaged over the clients that adapt it.
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from fedpeft.aggregation import stack, truncate
from fedpeft.federation.message import Reply
from fedpeft.federation.method import MethodOptions, by_examples
from fedpeft.methods.options import LoraOptions
from fedpeft.methods.ranks import Ranked, RankedState, holders, mean_heads, modules_of, named, pair


class FlexLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="LoRA; `resources` give clients other ranks")


class FlexLora(Ranked):
    Options = FlexLoraOptions
    remembers = False

    def aggregate(self, state: RankedState, replies: Sequence[Reply]) -> RankedState:
        tensors = state.tensors | mean_heads(replies)
        for module in modules_of(tensors):
            own = holders(replies, module)
            if own:
                mean = stack([pair(reply.tensors, module) for reply in own], by_examples(own))
                rank = tensors[f"{module}.lora_A.weight"].shape[0]  # the largest of any client
                b, a = truncate(mean, rank)
                spare = (a == 0).all(1)  # directions that the sum does not have: B is zero, A may learn again
                tensors |= named(module, (b, torch.where(spare[:, None], pair(state.tensors, module)[1], a)))
        return RankedState(tensors, state.ranks)
