"""FedALT: a client's own LoRA beside a frozen LoRA of the rest of the world. Bian et al., arXiv 2503.11880.

The paper's, per layer and token x, with a softmax router g:

    W0 x + s ( g_1(x) B_k A_k x + g_2(x) B_-k A_-k x ),     A_-k = mean of the others' A,  B_-k = mean of the others' B.

Client k trains its own A_k, B_k and its router, which never leaves it; the rest of the world is frozen and replaced in
each round. Local training goes on from the client's own LoRA and never from an average. The mean is not weighted by
examples, and A and B are averaged apart [code]. Ours [choice]: a client that was not drawn is remembered as it last
was; the head stays with the client as its LoRA does; until others have replied their LoRA has a B of zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftConfig
from pydantic import Field
from torch import nn

from fedpeft.adapters import AdaptedModel, LoraOptions
from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, get_layout
from fedpeft.methods.common.expert_tensors import find_trained_names, make_client_config, name_expert, read_expert
from fedpeft.methods.common.fedavg import fill_from_client

OWN, OTHERS = 0, 1  # the two experts of every layer


class FedAltOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="each of a client's two LoRA")


@dataclass(frozen=True)
class FedAltState:
    start: Tensors  # the LoRA that every client starts from
    loras: dict[str, Tensors]  # last known LoRA of each client that has replied


class FedAlt(Method[FedAltState]):
    Options = FedAltOptions

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return make_client_config(self.options.adapter, model, client, 2, "router")

    # ---- server: the mean of the others, for each client

    def start(self, info: FederationInfo, seed: int) -> FedAltState:
        return FedAltState(read_expert(info.shared_initial_tensors(), OWN), {})

    def send(self, state: FedAltState, client: ClientSpec) -> Tensors:
        others = [lora for name, lora in state.loras.items() if name != client.id]
        return mean_tensors(others) if others else {}

    def reply_layout(self, state: FedAltState, message: Message) -> Layout:
        return get_layout(state.start)

    def update_baseline(self, state: FedAltState, message: Message, reply: Reply) -> Tensors:
        return state.loras.get(reply.client, state.start)  # training goes on from there, not from what was sent

    def aggregate(self, state: FedAltState, replies: Sequence[Reply]) -> FedAltState:
        loras = state.loras | {reply.client: reply.tensors for reply in replies}
        return FedAltState(state.start, dict(sorted(loras.items())))

    # ---- client: own LoRA, router and head go on, the rest of the world is replaced

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        others = Message(message.client, message.round, name_expert(message.tensors, OTHERS))
        model.write(fill_from_client(others, client))
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return find_trained_names(model.names, OWN)

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return read_expert(model.read(), OWN)
