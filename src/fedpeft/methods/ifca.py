"""IFCA: C global models; every client trains the one that fits its data best. Ghosh et al., arXiv 2006.04088.

The paper's: the server sends all C models, client k picks argmin_j of its training loss and trains that one, the
server averages within each cluster. C = 1 is FedAvg. Ours [choice]: the first model is the common start, the others
are drawn anew with its tensors' means and spreads (clients could not choose among equal starts).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedpeft.adapters import AdaptedModel, LoraOptions
from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, example_weights, get_layout
from fedpeft.federation.randomness import generator
from fedpeft.methods.common.several_models import number_names, select_model


class IfcaOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA of every global model")
    clusters: int = Field(2, ge=1, description="number of global models, C")


@dataclass(frozen=True)
class IfcaState:
    models: tuple[Tensors, ...]


class Ifca(Method[IfcaState]):
    Options = IfcaOptions
    uses_client_state = False
    reply_scalars: ClassVar[Mapping[str, type]] = {**Method.reply_scalars, "cluster": int}

    def start(self, info: FederationInfo, seed: int) -> IfcaState:
        first = info.shared_initial_tensors()
        others = [resample(first, generator(seed, "ifca", j)) for j in range(1, self.options.clusters)]
        return IfcaState((first, *others))

    def send(self, state: IfcaState, client: ClientSpec) -> Tensors:
        return {name: t for j, model in enumerate(state.models) for name, t in number_names(model, j).items()}

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        losses = {j: self._compute_loss(model, message, client, j) for j in range(self.options.clusters)}
        chosen = min(losses, key=losses.__getitem__)
        model.write(select_model(message, chosen))
        return {"cluster": chosen}

    def reply_layout(self, state: IfcaState, message: Message) -> Layout:
        return get_layout(state.models[0])

    def rejection_reason(self, state: IfcaState, reply: Reply) -> str | None:
        cluster = reply.scalars.get("cluster")
        if cluster in range(len(state.models)):
            return None
        return f"its cluster must be one of 0 to {len(state.models) - 1}, received {cluster!r}"

    def update_baseline(self, state: IfcaState, message: Message, reply: Reply) -> Tensors:
        return state.models[int(reply.scalars["cluster"])]

    def aggregate(self, state: IfcaState, replies: Sequence[Reply]) -> IfcaState:
        return IfcaState(tuple(self._average(state, replies, j) for j in range(len(state.models))))

    def _average(self, state: IfcaState, replies: Sequence[Reply], j: int) -> Tensors:
        own = [reply for reply in replies if reply.scalars["cluster"] == j]
        return mean_tensors([reply.tensors for reply in own], example_weights(own)) if own else state.models[j]

    def _compute_loss(self, model: AdaptedModel, message: Message, client: Client, j: int) -> float:
        if self.options.clusters == 1:
            return 0.0
        model.write(select_model(message, j))
        return client.scores(model, "train")["loss"]


def resample(tensors: Tensors, draw: torch.Generator) -> Tensors:
    """Random tensors of the same means and spreads; constant ones, such as LoRA's B of zeros, stay."""
    return {name: _resample_one(tensor, draw) for name, tensor in tensors.items()}


def _resample_one(tensor: Tensor, draw: torch.Generator) -> Tensor:
    deviation = tensor.float().std(correction=0)
    noise = torch.randn(tensor.shape, generator=draw).to(tensor.device)
    return (tensor.float().mean() + deviation * noise).to(tensor.dtype)
