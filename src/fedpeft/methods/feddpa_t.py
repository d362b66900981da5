"""FedDPA-T: a global and a local LoRA, weighted for each text. Yang et al., NeurIPS 2024, arXiv 2403.19211.

The paper's, per round: client k trains its local LoRA beside the frozen global one it received, half of each, and then
the global LoRA alone; the server takes the mean of the global ones, not weighted by examples [code]. At inference a
text's local LoRA has the weight alpha = `max_weight` x (mean cosine of the text's last hidden state, by the local LoRA,
with those of n of the client's training prompts), and the global one 1 - alpha. Two local trainings a round: it costs
twice the steps of FedIT, and two forwards a text at inference.
Derived: the mean cosine is the product with the mean of the n unit vectors, so a client keeps that one vector.
Ours [choice]: for encoders, whose last token means nothing, the vector is the mean over the tokens, and a negative
cosine counts as zero; prompts are drawn anew each round; the local LoRA is trained in the first round, too. The paper
has no head: ours goes with the local LoRA and stays with the client, another is trained with the global one and
averaged, and a client without its own takes that.
"""

from collections.abc import Sequence

import torch
from peft import PeftConfig
from pydantic import Field
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel, LoraOptions, take_head
from fedpeft.adapters.experts.gate import get_shared_gate
from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.expert_tensors import (
    LIMIT,
    REFERENCE,
    find_trained_names,
    make_client_config,
    name_expert,
    read_expert,
)
from fedpeft.methods.common.fedavg import GlobalState
from fedpeft.tasks.encode import make_batches

LOCAL, GLOBAL = 0, 1  # the two experts of every layer


class FedDpaOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="each of a client's two LoRA")
    prompts: int = Field(5, ge=1, description="n: how many of the client's training prompts a text is compared with")
    max_weight: float = Field(0.5, ge=0, le=1, description="the local LoRA's weight on a text like the client's own")


class FedDpaT(Method[GlobalState]):
    Options = FedDpaOptions

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return make_client_config(self.options.adapter, model, client, 2, "similarity")

    # ---- server: the plain mean of the global LoRA

    def start(self, info: FederationInfo, seed: int) -> GlobalState:
        start = info.shared_initial_tensors()
        return GlobalState(read_expert(start, GLOBAL) | take_head(start))

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return state.tensors

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        return GlobalState(mean_tensors([reply.tensors for reply in replies]))

    # ---- client

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        own = client.local.trained or client.initial | take_head(message.tensors)
        limit = torch.tensor([self.options.max_weight])
        model.write(own | name_expert(message.tensors, GLOBAL) | {LIMIT: limit})
        return {}

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        gate, rate = get_shared_gate(model.base), self.lr(message, training)
        scalars = self.receive(model, message, client)
        # 1. The local LoRA, and the head that stays, beside the global LoRA.
        names = find_trained_names(model.names, LOCAL)
        with gate.use_weights((0.5, 0.5)):
            train_locally(LocalTrainer(model, client, names, rate, training, shuffle, message.round))
        # 2. What a text will be compared with.
        reference, head = self._embed_prompts(model, client, message.round), take_head(model.read())
        model.write({REFERENCE: reference} | take_head(message.tensors))
        # 3. The global LoRA, and the head that travels, alone.
        names = find_trained_names(model.names, GLOBAL)
        with gate.use_weights((0.0, 1.0)):
            loss = train_locally(LocalTrainer(model, client, names, rate, training, shuffle, message.round))
        reply = self.finish(model, message, client, loss, scalars)
        client.local.trained = model.snapshot() | head
        return reply

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        trained = model.read()
        return read_expert(trained, GLOBAL) | take_head(trained)

    @torch.no_grad()
    def _embed_prompts(self, model: AdaptedModel, client: Client, round_: int) -> Tensor:
        """The mean (width,) of the unit vectors of the prompts drawn for this round."""
        rows = client.splits["train"]
        indices = torch.randperm(len(rows), generator=client.generator("prompts", round_))[: self.options.prompts]
        with get_shared_gate(model.base).collect_vectors() as vectors:
            for batch in make_batches([rows[i] for i in indices.tolist()], len(indices), client.padding, None):
                client.task.losses(model, batch)
        return torch.cat(vectors).mean(0)
