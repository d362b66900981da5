"""FedSA-LoRA: the A's are averaged, B and the head stay with the client. Guo et al., arXiv 2410.01463.

The paper's: A learns what clients have in common and B what they do not, so only the A's are averaged. Every client
deploys the mean A with its own B and head, as they stood after its last local training.
"""

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Scalar, Tensors
from fedpeft.methods.common.fedavg import GlobalState, LoraFedAvg, fill_from_client


class FedSaLora(LoraFedAvg):
    """FedAvg over the A's."""

    uses_client_state = True

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return take_a(state.tensors)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(fill_from_client(message, client))
        return {}

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return take_a(model.read())


def take_a(tensors: Tensors) -> Tensors:
    """The A's among LoRA tensors."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith("lora_A.weight")}
