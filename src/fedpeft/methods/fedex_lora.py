"""FedEx-LoRA: FedIT made exact by a residual. Singhal et al., arXiv 2410.09432.

The paper's: the server averages A and B, and adds what the average of factors misses to the base weights,

    W0 <- W0 + s ( mean(B_k A_k) - mean(B) mean(A) ),

so that the next round starts from the exact mean of the clients' models. Ours: the base is never written, the
residual travels and stays as factors of rank at most (K - 1) r.
"""

from collections.abc import Sequence

from peft import PeftConfig
from pydantic import Field
from torch import nn

from fedpeft.adapters import Slot
from fedpeft.aggregation import mean_tensors, residual
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, by_examples, layout
from fedpeft.methods.merging import MergedState, compact, delta_of, shapes_of
from fedpeft.methods.options import LoraOptions
from fedpeft.methods.ranks import modules_of, pair


class FedExLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA each client trains")


class FedExLora(Method[MergedState]):
    Options = FedExLoraOptions

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return self.options.adapter.config(model, client)

    def start(self, info: FederationInfo, seed: int) -> MergedState:
        common = info.common_start()
        return MergedState(common, shapes_of(info))

    def send(self, state: MergedState, client: ClientSpec) -> Tensors:
        return state.tensors | state.delta_for(client.id)

    def receive(self, model: Slot, message: Message, client: Client) -> dict[str, Scalar]:
        model.write({name: message.tensors[name] for name in model.names})
        model.merge(delta_of(client, message))
        return {}

    def expects(self, state: MergedState, message: Message) -> Layout:
        return layout(state.tensors)

    def aggregate(self, state: MergedState, replies: Sequence[Reply]) -> MergedState:
        weights = by_examples(replies)
        added = {}
        for module in modules_of(state.tensors):
            b, a = residual([pair(reply.tensors, module) for reply in replies], weights)
            added[module] = compact((self.options.adapter.scale * b, a))
        mean = mean_tensors([reply.tensors for reply in replies], weights)
        return state.after(mean, added, replies[0].round, [reply.client for reply in replies])
