"""FedAvg over adapter tensors: the shared shape of every method whose server takes a mean.

McMahan et al., arXiv 1602.05629. Methods with their own name in the literature (FedIT, FFA-LoRA, FedAvg + LoReFT)
derive from it in their own file. FedProx (Li et al., 1812.06127) and FedAdam / FedYogi (Reddi et al., 2003.00295)
are options of all of them: a proximal term at the client, and at the server a step of an optimiser whose gradient is
(what was sent - the mean).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel
from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import FederationInfo, Method, example_weights
from fedpeft.methods.common.options import MeanOptions

BETA1, BETA2, TAU = 0.9, 0.99, 1e-3  # the paper's


@dataclass(frozen=True)
class GlobalState:
    """One set of adapter and head tensors for everyone; `moments` belong to the server's optimiser."""

    tensors: Tensors
    moments: dict[str, Tensors] = field(default_factory=dict)


class FedAvg(Method[GlobalState]):
    """Broadcast one model, train it at every client, take the mean weighted by training rows."""

    def start(self, info: FederationInfo, seed: int) -> GlobalState:
        return GlobalState(info.shared_initial_tensors())

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return state.tensors

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        return make_proximal_term(model, self.trainable_names(model, message), self.options.proximal)

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        # theta <- sum_k p_k theta_k, p_k = n_k / sum n
        mean = mean_tensors([reply.tensors for reply in replies], example_weights(replies))
        return server_step(state, mean, self.options)


def make_proximal_term(model: AdaptedModel, names: Sequence[str], mu: float) -> Callable[[], Tensor] | None:
    """mu/2 ||w - w_now||^2 over the named tensors as they stand now; None for mu = 0."""
    if mu == 0:
        return None
    parameters = model.parameters(names)
    anchors = [parameter.detach().clone() for parameter in parameters]

    def distance() -> Tensor:
        return mu / 2 * torch.stack([(p - a).square().sum() for p, a in zip(parameters, anchors, strict=True)]).sum()

    return distance


def server_step(state: GlobalState, mean: Tensors, options: MeanOptions) -> GlobalState:
    """The server's step towards the mean of this round's tensors; tensors that did not travel stay."""
    if options.server == "mean":
        return GlobalState(state.tensors | mean)
    m, v = dict(state.moments.get("m", {})), dict(state.moments.get("v", {}))
    tensors = dict(state.tensors)
    for name, target in mean.items():
        delta = target - tensors[name]
        m[name] = BETA1 * m.get(name, torch.zeros_like(delta)) + (1 - BETA1) * delta
        v[name] = _second_moment(v.get(name, torch.full_like(delta, TAU**2)), delta.square(), options.server)
        tensors[name] = tensors[name] + options.server_lr * m[name] / (v[name].sqrt() + TAU)
    return GlobalState(tensors, {"m": m, "v": v})


def _second_moment(v: Tensor, square: Tensor, rule: str) -> Tensor:
    if rule == "adam":
        return BETA2 * v + (1 - BETA2) * square
    return v - (1 - BETA2) * square * torch.sign(v - square)
