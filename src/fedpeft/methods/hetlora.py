"""HetLoRA: clients of different rank, zero-padded to the largest. Cho et al., arXiv 2401.06432.

The paper's: (1) the server cuts its LoRA to each client's rank; (2) the client trains with a penalty on the product of
the norms of its last rows, lambda ||B[:, gamma r:]|| ||A[gamma r:]||, and gives those rows up when that product fell
("self-pruning"); (3) the server pads with zeros and averages A and B with weights ||B_k A_k||_F. Mean(B) mean(A) is
not mean(B A): not exact. Ours [choice]: weights and pruning by module; a pruned row travels once more as zeros, which
is how the server learns of it; the head is averaged by training examples.
"""

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs
from fedpeft.aggregation import Factors, frobenius_norm, pad_rank, take_rank, weighted_mean
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.methods.common.lora_tensors import (
    find_modules,
    get_factors,
    mean_heads,
    or_uniform,
    put_factors,
    replies_with,
)
from fedpeft.methods.common.options import MixedRankOptions
from fedpeft.methods.common.ranks import MixedRank, RankedState, read_ranks, truncate_to


class HetLoraOptions(MixedRankOptions):
    gamma: float = Field(
        0.99, gt=0, le=1, description="a client of rank r may prune its rows of A from gamma r on; 1: none"
    )
    prune_weight: float = Field(1e-3, ge=0, description="lambda, the weight of the penalty on those rows")


class HetLora(MixedRank):
    """The weighted mean of zero-padded factors. The rows that may be pruned are called the tail here."""

    Options = HetLoraOptions

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        tails = [self._view_tail(model, module, rank) for module, rank in read_ranks(message.tensors).items()]
        tails = [(b, a) for b, a in tails if a.numel()]
        if not tails or self.options.prune_weight == 0:
            return None
        return lambda: self.options.prune_weight * torch.stack([_norm(b) * _norm(a) for b, a in tails]).sum()

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        ranks = read_ranks(message.tensors)
        trained = truncate_to(model.read(), ranks)
        for module, rank in ranks.items():
            before, after = get_factors(message.tensors, module), get_factors(trained, module)
            start = self._tail_start(rank)
            if start < rank and _tail_norm(after, start) < _tail_norm(before, start):
                trained |= put_factors(module, pad_rank(take_rank(after, start), rank))
        return trained

    def aggregate(self, state: RankedState, replies: Sequence[Reply]) -> RankedState:
        tensors = state.tensors | mean_heads(replies)
        for module in find_modules(tensors):
            pairs = [get_factors(reply.tensors, module) for reply in replies_with(replies, module)]
            if pairs:
                rank = max(a.shape[0] for _, a in pairs)
                b, a = zip(*(pad_rank(factors, rank) for factors in pairs), strict=True)
                weights = or_uniform(torch.stack([frobenius_norm(factors) for factors in pairs]))  # (clients,)
                old_b, old_a = get_factors(tensors, module)  # rows that nobody of this round has stay as they are
                new_b = torch.cat([weighted_mean(torch.stack(b), weights), old_b[:, rank:]], 1)
                new_a = torch.cat([weighted_mean(torch.stack(a), weights), old_a[rank:]])
                tensors |= put_factors(module, (new_b, new_a))
        return RankedState(tensors, state.ranks | {reply.client: read_pruned_ranks(reply.tensors) for reply in replies})

    def _tail_start(self, rank: int) -> int:
        return max(1, math.floor(self.options.gamma * rank))

    def _view_tail(self, model: AdaptedModel, module: str, rank: int) -> Factors:
        b, a = model.parameters([f"{module}.lora_B.weight", f"{module}.lora_A.weight"])
        start = self._tail_start(rank)
        return b[:, start:rank], a[start:rank]


def read_pruned_ranks(tensors: Tensors) -> dict[str, int]:
    """The rank of every module without the rows given up, which are zero in A; at least 1."""
    return {module: max(1, int((tensors[a] != 0).any(1).sum())) for module, a, _ in find_lora_pairs(tensors)}


def _norm(matrix: Tensor) -> Tensor:
    return (matrix.square().sum() + 1e-24).sqrt()  # a norm with a gradient at zero, where B starts


def _tail_norm(factors: Factors, start: int) -> float:
    return float(factors[0][:, start:].norm() * factors[1][start:].norm())
