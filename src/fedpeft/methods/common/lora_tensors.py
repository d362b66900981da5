"""LoRA tensors by module: names to factors and back, and what several rules ask of replies."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedpeft.adapters import find_lora_pairs, take_head
from fedpeft.aggregation import Factors, mean_tensors
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import example_weights


def find_modules(names: Iterable[str]) -> list[str]:
    """The adapted modules among names of LoRA tensors, in the order of the blocks."""
    return [module for module, _, _ in find_lora_pairs(names)]


def get_factors(tensors: Tensors, module: str) -> Factors:
    """The factors B (d_out, r) and A (r, d_in) of one module."""
    return tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]


def put_factors(module: str, factors: Factors) -> Tensors:
    """The named tensors of one module's factors, the inverse of `get_factors`."""
    return {f"{module}.lora_A.weight": factors[1], f"{module}.lora_B.weight": factors[0]}


def replies_with(replies: Sequence[Reply], module: str) -> list[Reply]:
    """The replies of the clients that adapt a module."""
    return [reply for reply in replies if f"{module}.lora_A.weight" in reply.tensors]


def mean_heads(replies: Sequence[Reply], weights: Tensor | None = None) -> Tensors:
    """The mean of the heads with weights (clients,), by default those of the training examples."""
    heads = [take_head(reply.tensors) for reply in replies]
    return mean_tensors(heads, example_weights(replies) if weights is None else weights)


def or_uniform(weights: Tensor) -> Tensor:
    """The weights (clients,), or equal ones where all are zero."""
    return weights if bool(weights.sum() > 0) else torch.ones_like(weights)
