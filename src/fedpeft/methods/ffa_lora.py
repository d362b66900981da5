"""FFA-LoRA: A frozen at a common random start, only B trained. Sun et al., arXiv 2403.12313.

With one A for all clients, mean(B) A = mean(B A): the aggregate is exact, and half of LoRA travels. Every client
derives the same A from the run's seed, so A never travels. Ours [choice]: the head is trained and averaged with B.
"""

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Scalar, Tensors
from fedpeft.methods.common.fedavg import GlobalState, LoraFedAvg


class FfaLora(LoraFedAvg):
    """FedAvg over B and the head."""

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return drop_a(state.tensors)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(client.initial | message.tensors)  # A as every client derives it
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return tuple(message.tensors)

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return drop_a(model.read())


def drop_a(tensors: Tensors) -> Tensors:
    """All LoRA tensors but the A's."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("lora_A.weight")}
