"""Local: every client trains alone; nothing travels. The lower reference of every comparison."""

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Scalar
from fedpeft.methods.common.fedavg import fill_from_client
from fedpeft.methods.common.isolated import Isolated


class Local(Isolated):
    """Each round continues from the client's own last round, the first one from the seeded start."""

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.restore(fill_from_client(message, client))
        return {}
