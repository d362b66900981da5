"""Zero-shot: the backbone as it came; nothing is trained and nothing travels. What training is worth is told by it."""

import torch

from fedpeft.adapters import Slot
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.settings import TrainingConfig
from fedpeft.methods.local import Local


class ZeroShot(Local):
    """Local training without the training. A classification head stays as it was drawn."""

    def trains(self, model: Slot, message: Message) -> tuple[str, ...]:
        return ()

    def train(
        self, model: Slot, message: Message, client: Client, settings: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        return Reply(message.client, message.round, {}, {"examples": client.spec.examples})
