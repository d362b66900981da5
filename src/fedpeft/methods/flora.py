"""FLoRA: stack the clients' LoRA instead of averaging it. Wang et al., arXiv 2409.05976.

The paper's: clients of any rank start a fresh LoRA every round; the server stacks [p_k s B_k] and [A_k], whose product
is exactly sum_k p_k s B_k A_k; every client merges that into its base. Ours [choice]: the base is never written, the
sum stays beside it as a frozen delta; a client applies what falls on the layers it adapts, and of each module p_k is
taken over the clients that adapt it; the head is averaged.
"""

from collections.abc import Sequence

import torch

from fedpeft.adapters import AdaptedModel, find_lora_pairs, take_head
from fedpeft.aggregation import concat_factors
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, example_weights
from fedpeft.methods.common.cumulative_delta import CumulativeState, draw_fresh_lora, read_delta, read_shapes
from fedpeft.methods.common.fresh_update import measure_products, shrink_products
from fedpeft.methods.common.lora_tensors import find_modules, get_factors, mean_heads, replies_with
from fedpeft.methods.common.options import MixedRankOptions


class FLora(Method[CumulativeState]):
    Options = MixedRankOptions

    def start(self, info: FederationInfo, seed: int) -> CumulativeState:
        return CumulativeState(take_head(next(iter(info.initial.values()))), read_shapes(info))

    def send(self, state: CumulativeState, client: ClientSpec) -> Tensors:
        return state.tensors | state.select_delta(client.id)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(take_head(message.tensors) | draw_fresh_lora(model, client.generator("fresh", message.round)))
        model.set_frozen_delta(read_delta(client, message))
        return {}

    def reply_layout(self, state: CumulativeState, message: Message) -> Layout:
        return {n: (torch.float32, torch.Size(shape)) for n, shape in state.shapes[message.client].items()}

    def measure_adapter(self, reply: Reply) -> tuple[float, int]:
        return measure_products(get_factors(reply.tensors, module) for module in find_modules(reply.tensors))

    def shrink_update(self, reply: Reply, baseline: Tensors, adapter: float, head: float) -> Tensors:
        names = [b for _, _, b in find_lora_pairs(reply.tensors)]
        return shrink_products(reply.tensors, baseline, names, adapter, head)

    def aggregate(self, state: CumulativeState, replies: Sequence[Reply]) -> CumulativeState:
        added = {}
        for module in sorted({module for reply in replies for module in find_modules(reply.tensors)}):
            own = replies_with(replies, module)
            weights = self.options.adapter.scale * example_weights(own)
            added[module] = concat_factors([get_factors(reply.tensors, module) for reply in own], weights)
        return state.add_round(mean_heads(replies), added, replies[0].round, [reply.client for reply in replies])
