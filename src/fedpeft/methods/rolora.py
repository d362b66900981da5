"""RoLoRA: rounds alternate between B with A frozen and A with B frozen. Chen et al., arXiv 2409.02346.

One factor is the same at all clients in every round, so the mean of the other is the exact mean of the products, and
half of LoRA travels each way. Odd rounds train B, even ones A. Ours [choice]: the head is trained in every round; a
client that missed rounds is sent both factors, all others only the one that changed since they last trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, get_layout
from fedpeft.methods.common.fedavg import GlobalState, LoraFedAvg, fill_from_client

FROZEN = {1: "lora_A.weight", 0: "lora_B.weight"}  # by the round's parity


@dataclass(frozen=True)
class RoLoraState(GlobalState):
    changed: dict[str, int] = field(default_factory=dict)  # round of the last change, by tensor
    seen: dict[str, int] = field(default_factory=dict)  # round of the last usable reply, by client


class RoLora(LoraFedAvg):
    """FedAvg over the head and the factor that the round trains."""

    uses_client_state = True

    def start(self, info: FederationInfo, seed: int) -> RoLoraState:
        return RoLoraState(super().start(info, seed).tensors)

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        # A client knows everything up to the round of its last usable reply, but not that round's mean.
        assert isinstance(state, RoLoraState)
        if client.id not in state.seen:
            return state.tensors
        known = state.seen[client.id]
        return {name: tensor for name, tensor in state.tensors.items() if state.changed.get(name, 0) >= known}

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(fill_from_client(message, client))
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return tuple(trained_names(model.names, message.round))

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        tensors = model.read()
        return {name: tensors[name] for name in trained_names(model.names, message.round)}

    def reply_layout(self, state: GlobalState, message: Message) -> Layout:
        return get_layout({name: state.tensors[name] for name in trained_names(tuple(state.tensors), message.round)})

    def update_baseline(self, state: GlobalState, message: Message, reply: Reply) -> Tensors:
        return state.tensors  # a factor that the client had already was not sent

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> RoLoraState:
        assert isinstance(state, RoLoraState)
        stepped, round_ = super().aggregate(state, replies), replies[0].round
        changed = state.changed | dict.fromkeys(replies[0].tensors, round_)
        seen = state.seen | {reply.client: round_ for reply in replies}
        return RoLoraState(stepped.tensors, stepped.moments, changed, seen)


def trained_names(names: Sequence[str], round_: int) -> list[str]:
    """The names of the tensors that a round trains."""
    return [name for name in names if not name.endswith(FROZEN[round_ % 2])]
