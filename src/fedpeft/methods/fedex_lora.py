"""FedEx-LoRA: FedIT made exact by a residual. Singhal et al., arXiv 2410.09432.

The paper's: the server averages A and B, and adds what the average of factors misses to the base weights,

    W0 <- W0 + s ( mean(B_k A_k) - mean(B) mean(A) ),

so that the next round starts from the exact mean of the clients' models. Ours: the base is never written, the
residual travels and stays as factors of rank at most (K - 1) r.
"""

from collections.abc import Sequence

from pydantic import Field

from fedpeft.adapters import AdaptedModel, LoraOptions
from fedpeft.aggregation import mean_tensors, residual
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, example_weights, get_layout
from fedpeft.methods.common.cumulative_delta import CumulativeState, compact_rank, read_delta, read_shapes
from fedpeft.methods.common.lora_tensors import find_modules, get_factors


class FedExLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA that every client trains")


class FedExLora(Method[CumulativeState]):
    Options = FedExLoraOptions

    def start(self, info: FederationInfo, seed: int) -> CumulativeState:
        return CumulativeState(info.shared_initial_tensors(), read_shapes(info))

    def send(self, state: CumulativeState, client: ClientSpec) -> Tensors:
        return state.tensors | state.select_delta(client.id)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write({name: message.tensors[name] for name in model.names})
        model.set_frozen_delta(read_delta(client, message))
        return {}

    def reply_layout(self, state: CumulativeState, message: Message) -> Layout:
        return get_layout(state.tensors)

    def aggregate(self, state: CumulativeState, replies: Sequence[Reply]) -> CumulativeState:
        weights = example_weights(replies)
        added = {}
        for module in find_modules(state.tensors):
            b, a = residual([get_factors(reply.tensors, module) for reply in replies], weights)
            added[module] = compact_rank((self.options.adapter.scale * b, a))
        mean = mean_tensors([reply.tensors for reply in replies], weights)
        return state.add_round(mean, added, replies[0].round, [reply.client for reply in replies])
