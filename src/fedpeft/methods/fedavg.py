"""FedAvg over adapter tensors: the shared shape of every method that keeps one global mean.

McMahan et al., arXiv 1602.05629. Methods with their own name in the literature (FedIT, FedAvg + LoReFT) derive
from it in their own file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftConfig
from torch import nn

from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import FederationInfo, Method, by_examples


@dataclass(frozen=True)
class GlobalState:
    """One set of adapter and head tensors for everyone."""

    tensors: Tensors


class FedAvg(Method[GlobalState]):
    """Broadcast one model, train it at every client, take the mean weighted by training rows."""

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return self.options.adapter.config(model)

    def start(self, info: FederationInfo, seed: int) -> GlobalState:
        return GlobalState(info.common_start(type(self).__name__))

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return state.tensors

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        # theta <- sum_k p_k theta_k, p_k = n_k / sum n
        return GlobalState(mean_tensors([reply.tensors for reply in replies], by_examples(replies)))
