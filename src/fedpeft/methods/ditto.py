"""Ditto: a global model by FedAvg, and a personal one held near it. Li et al., arXiv 2012.04221.

The paper's, per client and round: w_k from the received w by local training, sent back; and the personal v_k, never
sent, by local training of  F_k(v) + lambda/2 ||v - w||^2.  Each client deploys v_k. Two local trainings a round: it
costs twice the steps of FedIT.
"""

import torch
from pydantic import Field

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.fedavg import make_proximal_term
from fedpeft.methods.fedit import FedIt, FedItOptions


class DittoOptions(FedItOptions):
    personal_weight: float = Field(0.1, ge=0, description="lambda: how strongly the personal model is held")


class Ditto(FedIt):
    """`client.local.kept` is v_k."""

    Options = DittoOptions

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        # 1. The global model, as FedAvg does.
        reply = super().train(model, message, client, training, shuffle)
        # 2. The personal one, held near what was received.
        model.write(message.tensors)
        near = make_proximal_term(model, model.names, self.options.personal_weight)
        self.load_personal(model, message, client)
        train_locally(LocalTrainer(model, client, model.names, self.lr(message, training), training, shuffle), near)
        client.local.kept = client.local.trained = model.read()
        return reply

    def load_personal(self, model: AdaptedModel, message: Message, client: Client) -> None:
        model.write(client.local.kept or message.tensors)
