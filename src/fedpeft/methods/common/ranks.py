"""Clients that differ in rank and in adapted layers: one LoRA at the server, cut to each client's size [ours].

The server's LoRA has every module of any client at the largest rank of any client. The scale s in s B A is one constant
of the federation, so cutting a pair of factors, or padding it with zeros, leaves the meaning of what remains.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fedpeft.adapters import AdaptedModel, find_lora_pairs, take_head
from fedpeft.aggregation import Factors, pad_rank, take_rank
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.methods.common.lora_tensors import get_factors, put_factors
from fedpeft.methods.common.options import MixedRankOptions

Ranks = dict[str, dict[str, int]]  # by client, by module


@dataclass(frozen=True)
class RankedState:
    """Every module of any client at its largest rank, and the rank at which each client holds it."""

    tensors: Tensors
    ranks: Ranks


class MixedRank(Method[RankedState]):
    """Sends each client the first rows of every module that it adapts; the aggregation rule is the method's own."""

    Options = MixedRankOptions
    uses_client_state = False

    def start(self, info: FederationInfo, seed: int) -> RankedState:
        largest: Tensors = {}
        for tensors in info.initial.values():
            for name, tensor in tensors.items():
                if name not in largest or tensor.numel() > largest[name].numel():
                    largest[name] = tensor
        return RankedState(largest, {client: read_ranks(tensors) for client, tensors in info.initial.items()})

    def send(self, state: RankedState, client: ClientSpec) -> Tensors:
        ranks = state.ranks.get(client.id)
        if ranks is None:  # a joining client gets every module, at a rank that it can carry
            rank = client.resources.rank or self.options.adapter.r
            ranks = {module: min(rank, most) for module, most in read_ranks(state.tensors).items()}
        return truncate_to(state.tensors, ranks)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(pad_to(message.tensors, read_ranks(client.initial)))
        return {}


def read_ranks(tensors: Tensors) -> dict[str, int]:
    """The rank of every adapted module."""
    return {module: tensors[a].shape[0] for module, a, _ in find_lora_pairs(tensors)}


def truncate_to(tensors: Tensors, ranks: dict[str, int]) -> Tensors:
    """The modules named in `ranks`, each cut to its rank, and the head."""
    return _resize(tensors, ranks, take_rank)


def pad_to(tensors: Tensors, ranks: dict[str, int]) -> Tensors:
    """The modules named in `ranks`, each padded with zeros to its rank, and the head."""
    return _resize(tensors, ranks, pad_rank)


def _resize(tensors: Tensors, ranks: dict[str, int], resize: Callable[[Factors, int], Factors]) -> Tensors:
    result = take_head(tensors)
    for module, rank in ranks.items():
        result |= put_factors(module, resize(get_factors(tensors, module), rank))
    return result
