"""Zero-shot: the backbone as it came; nothing is trained and nothing travels. What training is worth is told by it."""

import torch

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.local import Local


class ZeroShot(Local):
    """Local training without the training. A classification head stays as it was drawn."""

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return ()

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        return Reply(message.client, message.round, {}, {"examples": client.spec.examples})
