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
from fedpeft.methods.common.options import FactorMeanOptions
from fedpeft.methods.common.proximal import make_proximal_term
from fedpeft.methods.common.rotation import FactorMean


class DittoOptions(FactorMeanOptions):
    personal_weight: float = Field(
        0.1, ge=0, description="lambda: how strongly a client's personal model is held near the global one"
    )


class Ditto(FactorMean):
    """`client.local.kept` is v_k."""

    Options = DittoOptions

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        # 1. The global model w_k, as FedAvg trains it.
        reply = super().train(model, message, client, training, shuffle)
        # 2. The personal model v_k, held near the w received.
        model.write(message.tensors)
        penalty = make_proximal_term(model, model.names, self.options.personal_weight)
        self.load_personal(model, message, client)
        lr = self.lr(message, training)
        trainer = LocalTrainer(model, client, model.names, lr, training, shuffle, message.round)
        train_locally(trainer, penalty)
        client.local.kept = client.local.trained = model.read()
        return reply

    def load_personal(self, model: AdaptedModel, message: Message, client: Client) -> None:
        model.write(client.local.kept or message.tensors)
