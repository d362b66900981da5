"""Ditto: a global model by FedAvg, and a personal one held near it. Li et al., arXiv 2012.04221.

The paper's, per client and round: w_k from the received w by local training, sent back; and the personal v_k, never
sent, by local training of  F_k(v) + lambda/2 ||v - w||^2.  Each client deploys v_k. Two local trainings a round: it
costs twice the steps of FedIT.
"""

import torch
from pydantic import Field

from fedpeft.adapters import Slot
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.settings import TrainingConfig
from fedpeft.federation.training import Course, train_locally
from fedpeft.methods.fedavg import proximal
from fedpeft.methods.fedit import FedIt, FedItOptions


class DittoOptions(FedItOptions):
    personal_weight: float = Field(0.1, ge=0, description="lambda: how strongly the personal model is held")


class Ditto(FedIt):
    """`client.local.kept` is v_k."""

    Options = DittoOptions

    def train(
        self, model: Slot, message: Message, client: Client, settings: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        # 1. The global model, as FedAvg does.
        reply = super().train(model, message, client, settings, shuffle)
        # 2. The personal one, held near what was received.
        model.write(message.tensors)
        near = proximal(model, model.names, self.options.personal_weight)
        self.personal(model, message, client)
        train_locally(Course(model, client, model.names, self.lr(message, settings), settings, shuffle), near)
        client.local.kept = client.local.trained = model.read()
        return reply

    def personal(self, model: Slot, message: Message, client: Client) -> None:
        model.write(client.local.kept or message.tensors)
