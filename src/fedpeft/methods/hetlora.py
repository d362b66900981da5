"""HetLoRA: clients of different rank, zero-padded to the largest. Cho et al., arXiv 2401.06432.

The paper's: (1) the server cuts its LoRA to each client's rank; (2) the client trains with a penalty on the product of
the norms of its last rows, lambda ||B[:, gamma r:]|| ||A[gamma r:]||, and gives those rows up when that product fell
("self-pruning"); (3) the server pads with zeros and averages A and B with weights ||B_k A_k||_F. Mean(B) mean(A) is
not mean(B A): not exact. Ours [choice]: weights and pruning by module; a pruned row travels once more as zeros, which
is how the server learns of it; the head is averaged by training rows.
"""

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from fedpeft.adapters import AdaptedModel, LoraOptions, find_lora_pairs
from fedpeft.aggregation import frobenius_norm, pad_rank, weighted_mean
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import MethodOptions
from fedpeft.methods.common.ranks import (
    Ranked,
    RankedState,
    find_modules,
    get_factors,
    mean_heads,
    or_uniform,
    put_factors,
    read_ranks,
    replies_with,
    truncate_to,
)  # fmt: skip


class HetLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="LoRA; `resources` give clients other ranks")
    gamma: float = Field(0.99, gt=0, le=1, description="rows from gamma r on may be pruned; 1: never")
    prune_weight: float = Field(1e-3, ge=0, description="lambda of the penalty on those rows")


class HetLora(Ranked):
    Options = HetLoraOptions
    uses_client_state = False

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        tails = [self._tail_of(model, module, rank) for module, rank in read_ranks(message.tensors).items()]
        tails = [tail for tail in tails if tail[0].numel()]
        if not tails or self.options.prune_weight == 0:
            return None
        return lambda: self.options.prune_weight * torch.stack([_norm(b) * _norm(a) for b, a in tails]).sum()

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        trained = truncate_to(model.read(), read_ranks(message.tensors))
        for module, rank in read_ranks(message.tensors).items():
            before, after = get_factors(message.tensors, module), get_factors(trained, module)
            start = self._tail(rank)
            if start < rank and _tail_norm(after, start) < _tail_norm(before, start):
                kept = after[0][:, :start], after[1][:start]
                trained |= put_factors(module, pad_rank(kept, rank))
        return trained

    def aggregate(self, state: RankedState, replies: Sequence[Reply]) -> RankedState:
        tensors = state.tensors | mean_heads(replies)
        for module in find_modules(tensors):
            pairs = [get_factors(reply.tensors, module) for reply in replies_with(replies, module)]
            if pairs:
                rank = max(factors[1].shape[0] for factors in pairs)
                b, a = zip(*(pad_rank(factors, rank) for factors in pairs), strict=True)
                weights = or_uniform(torch.stack([frobenius_norm(factors) for factors in pairs]))  # (clients,)
                old_b, old_a = get_factors(tensors, module)  # rows that nobody of this round has stay as they are
                new_b = torch.cat([weighted_mean(torch.stack(b), weights), old_b[:, rank:]], 1)
                new_a = torch.cat([weighted_mean(torch.stack(a), weights), old_a[rank:]])
                tensors |= put_factors(module, (new_b, new_a))
        return RankedState(tensors, state.ranks | {reply.client: _left(reply.tensors) for reply in replies})

    def _tail(self, rank: int) -> int:
        return max(1, math.floor(self.options.gamma * rank))

    def _tail_of(self, model: AdaptedModel, module: str, rank: int) -> tuple[Tensor, Tensor]:
        b, a = model.parameters([f"{module}.lora_B.weight", f"{module}.lora_A.weight"])
        start = self._tail(rank)
        return b[:, start:rank], a[start:rank]


def _norm(matrix: Tensor) -> Tensor:
    return (matrix.square().sum() + 1e-24).sqrt()  # a norm with a gradient at zero, where B starts


def _tail_norm(factors: tuple[Tensor, Tensor], start: int) -> float:
    return float(factors[0][:, start:].norm() * factors[1][start:].norm())


def _left(tensors: Tensors) -> dict[str, int]:
    """Ranks without the rows that were pruned: those at the end whose A is zero."""
    return {module: max(1, int((tensors[a] != 0).any(1).sum())) for module, a, _ in find_lora_pairs(tensors)}
