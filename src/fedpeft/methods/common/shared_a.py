"""A fresh A for each round that everyone draws from the run's seed, so that it need not travel [ours].

With one A for all clients the sum of their updates is (sum_k w_k B_k) A: exact in rank r, where factors that differ add
up to rank K r. Ranks nest: a client of less rank has the first rows of the same A. Over the rounds the A's differ, so
the sum of the rounds' updates can reach any rank.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs
from fedpeft.aggregation import Factors
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.randomness import generator
from fedpeft.methods.common.masked_upload import ModuleSizes, get_upload_names

A_ENDING = "lora_A.weight"


def draw_shared_a(seed: int, round_: int, module: str, rank: int, d_in: int) -> Tensor:
    """The A (rank, d_in) of one module in one round, uniform as PEFT draws it; its rows depend on no rank."""
    draw = generator(seed, "shared A", round_, module)
    rows = [torch.rand(d_in, generator=draw) for _ in range(rank)]  # row by row: a rank does not change the others'
    return (2 * torch.stack(rows) - 1) * d_in**-0.5


def draw_shared_lora(model: AdaptedModel, seed: int, round_: int) -> Tensors:
    """A new start for the trainable LoRA: the shared A, B zero."""
    tensors: Tensors = {}
    for module, name_a, name_b in find_lora_pairs(model.names):
        a, b = model.parameters([name_a, name_b])
        drawn = draw_shared_a(seed, round_, module, *a.shape)
        tensors |= {name_a: drawn.to(a.device, a.dtype), name_b: torch.zeros_like(b)}
    return tensors


def drop_a(names: Iterable[str]) -> list[str]:
    """The names of all tensors but the A's."""
    return [name for name in names if not name.endswith(A_ENDING)]


def restore_a(reply: Reply, modules: ModuleSizes, seed: int) -> Reply:
    """The reply with the A of every module that it has rows of."""
    tensors = dict(reply.tensors)
    for module, size in modules.items():
        name_a, name_b, _ = get_upload_names(module)
        if name_b in tensors:
            drawn = draw_shared_a(seed, reply.round, module, size["rank"], size["d_in"])
            tensors[name_a] = drawn.to(tensors[name_b].device)
    return replace(reply, tensors=tensors)


def fold_shared_a(stacked: Factors, ranks: Sequence[int]) -> Factors:
    """Clients' stacked factors, whose A's are the first rows of one, as one pair of the largest rank: the same product.

    `stacked` is B (d_out, sum of ranks) and A (sum of ranks, d_in), client after client.
    """
    b, a = stacked
    total = torch.zeros(b.shape[0], max(ranks), dtype=torch.float64, device=b.device)
    for part in b.split(list(ranks), 1):
        total[:, : part.shape[1]] += part.double()
    largest = max(range(len(ranks)), key=ranks.__getitem__)
    return total.to(b.dtype), a.split(list(ranks))[largest]
