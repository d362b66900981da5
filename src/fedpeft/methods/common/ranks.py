"""Clients that differ in rank and in adapted layers: one server-side LoRA large enough for all, cut to each [ours].

HetLoRA and FlexLoRA share it. Since s in s B A is one constant of the federation, cutting and padding a pair of
factors with zeros leaves the meaning of what remains.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs, is_head
from fedpeft.aggregation import Factors, mean_tensors, pad_rank, take_rank
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Method, example_weights

Ranks = dict[str, dict[str, int]]  # by client, by module


@dataclass(frozen=True)
class RankedState:
    """Every module of any client, at the largest rank of any client; and what each client holds of it."""

    tensors: Tensors
    ranks: Ranks


class Ranked(Method[RankedState]):
    """Sends each client the first rows of every module it adapts."""

    def start(self, info: FederationInfo, seed: int) -> RankedState:
        largest: Tensors = {}
        for tensors in info.initial.values():
            for name, tensor in tensors.items():
                if name not in largest or tensor.numel() > largest[name].numel():
                    largest[name] = tensor
        return RankedState(largest, {client: read_ranks(tensors) for client, tensors in info.initial.items()})

    def send(self, state: RankedState, client: ClientSpec) -> Tensors:
        rank = client.resources.rank or self.options.adapter.r
        newcomer = {module: min(rank, most) for module, most in read_ranks(state.tensors).items()}
        return truncate_to(state.tensors, state.ranks.get(client.id, newcomer))

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.write(pad_to(message.tensors, read_ranks(client.initial)))
        return {}


def get_factors(tensors: Tensors, module: str) -> Factors:
    """(B (d_out, r), A (r, d_in)) of one module."""
    return tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]


def put_factors(module: str, factors: Factors) -> Tensors:
    """The inverse of `pair`."""
    return {f"{module}.lora_A.weight": factors[1], f"{module}.lora_B.weight": factors[0]}


def read_ranks(tensors: Tensors) -> dict[str, int]:
    """The rank of every adapted module."""
    return {module: tensors[a].shape[0] for module, a, _ in find_lora_pairs(tensors)}


def truncate_to(tensors: Tensors, ranks: dict[str, int]) -> Tensors:
    """The modules named in `ranks`, each cut to its rank; and the head."""
    return _resized(tensors, ranks, take_rank)


def pad_to(tensors: Tensors, ranks: dict[str, int]) -> Tensors:
    """Every module padded with zeros to the rank given; and the head."""
    return _resized(tensors, ranks, pad_rank)


def _resized(tensors: Tensors, ranks: dict[str, int], resize: Callable[[Factors, int], Factors]) -> Tensors:
    result = {name: tensor for name, tensor in tensors.items() if is_head(name)}
    for module, rank in ranks.items():
        result |= put_factors(module, resize(get_factors(tensors, module), rank))
    return result


def find_modules(tensors: Iterable[str]) -> list[str]:
    """The adapted modules among names of LoRA tensors."""
    return [module for module, _, _ in find_lora_pairs(tensors)]


def replies_with(replies: Sequence[Reply], module: str) -> list[Reply]:
    """The replies of the clients that adapt a module."""
    return [reply for reply in replies if f"{module}.lora_A.weight" in reply.tensors]


def mean_heads(replies: Sequence[Reply], weights: Tensor | None = None) -> Tensors:
    """The weighted mean of the heads; by training rows where no weights (clients,) are given."""
    heads = [{name: tensor for name, tensor in reply.tensors.items() if is_head(name)} for reply in replies]
    return mean_tensors(heads, example_weights(replies) if weights is None else weights)


def or_uniform(weights: Tensor) -> Tensor:
    """The weights (clients,), or equal ones where all are zero."""
    return weights if bool(weights.sum() > 0) else torch.ones_like(weights)
