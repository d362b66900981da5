"""Zero-shot: the untrained backbone as a baseline; nothing is trained and nothing travels."""

import torch

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply, Scalar
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.isolated import Isolated


class ZeroShot(Isolated):
    """Every client keeps the seeded start. A classification head stays as it was drawn."""

    follows = Isolated.follows | {"density"}  # nothing is trained, so nothing goes beyond them

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.restore(client.initial)
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return ()

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        return Reply(message.client, message.round, {}, {"examples": client.spec.examples})
