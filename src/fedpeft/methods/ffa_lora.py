"""FFA-LoRA: A frozen at a shared random start, only B trained. Sun et al., arXiv 2403.12313.

With one A for everybody, mean(B) A = mean(B A): the aggregate is exact, and half of LoRA travels. Every client derives
the same A from the run's seed, so A never travels. Ours [choice]: the head is trained and averaged with B.
"""

from fedpeft.adapters import Slot
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Scalar, Tensors
from fedpeft.methods.fedavg import GlobalState
from fedpeft.methods.fedit import FedIt


class FfaLora(FedIt):
    """FedAvg over B and the head."""

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return without_a(state.tensors)

    def receive(self, model: Slot, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(client.initial | message.tensors)  # A as every client derives it
        return {}

    def trains(self, model: Slot, message: Message) -> tuple[str, ...]:
        return tuple(message.tensors)

    def reply(self, model: Slot, message: Message, client: Client) -> Tensors:
        return without_a(model.read())


def without_a(tensors: Tensors) -> Tensors:
    """Everything but the A's."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("lora_A.weight")}
