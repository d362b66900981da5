"""FedAvg over adapter tensors, the base of every method whose server takes a mean. McMahan et al., arXiv 1602.05629.

Methods with their own name in the literature derive from it in their own file. FedProx (Li et al., 1812.06127) and
FedAdam / FedYogi (Reddi et al., 2003.00295) are options of all of them: a proximal term at the client, and at the
server a step of an optimiser whose gradient is (what was sent - the mean).
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
from fedpeft.methods.common.options import LoraMeanOptions, MeanOptions
from fedpeft.methods.common.proximal import make_proximal_term

BETA1, BETA2, TAU = 0.9, 0.99, 1e-3  # [paper] of FedAdam and FedYogi


@dataclass(frozen=True)
class GlobalState:
    """One set of adapter and head tensors for all clients; `moments` belong to the server's optimiser."""

    tensors: Tensors
    moments: dict[str, Tensors] = field(default_factory=dict)


class FedAvg(Method[GlobalState]):
    """Sends one model to all clients, which train it, and takes the mean weighted by training examples."""

    Options = MeanOptions

    def start(self, info: FederationInfo, seed: int) -> GlobalState:
        return GlobalState(info.shared_initial_tensors())

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return state.tensors

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        return make_proximal_term(model, self.trainable_names(model, message), self.options.proximal)

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        return take_server_step(state, self.average(replies), self.options)

    def average(self, replies: Sequence[Reply]) -> Tensors:
        """The tensors that the server steps towards. Default: sum_k p_k theta_k, p_k = n_k / sum n."""
        return mean_tensors([reply.tensors for reply in replies], example_weights(replies))


class LoraFedAvg(FedAvg):
    """FedAvg over LoRA's A and B and the head."""

    Options = LoraMeanOptions
    uses_client_state = False


def fill_from_client(message: Message, client: Client) -> Tensors:
    """The tensors sent, and the others as this client's last local training left them, or as they start."""
    own = client.initial if client.local.trained is None else client.local.trained
    return own | message.tensors


def take_server_step(state: GlobalState, mean: Tensors, options: MeanOptions) -> GlobalState:
    """The state after the server's step towards this round's mean; tensors that did not travel stay."""
    if options.server == "mean":
        return GlobalState(state.tensors | mean)
    m, v = dict(state.moments.get("m", {})), dict(state.moments.get("v", {}))
    tensors = dict(state.tensors)
    for name, target in mean.items():
        delta = target - tensors[name]
        m[name] = BETA1 * m.get(name, torch.zeros_like(delta)) + (1 - BETA1) * delta
        v[name] = _update_second_moment(v.get(name, torch.full_like(delta, TAU**2)), delta.square(), options.server)
        tensors[name] = tensors[name] + options.server_lr * m[name] / (v[name].sqrt() + TAU)
    return GlobalState(tensors, {"m": m, "v": v})


def _update_second_moment(v: Tensor, square: Tensor, rule: str) -> Tensor:
    if rule == "adam":
        return BETA2 * v + (1 - BETA2) * square
    return v - (1 - BETA2) * square * torch.sign(v - square)
