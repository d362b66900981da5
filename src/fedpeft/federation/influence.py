"""How far a client's update goes, and how far one may go beside the others' before it is cut down or left out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedpeft.adapters import is_head
from fedpeft.federation.message import Tensors

LARGEST_CHANGE = 1e6  # norm of one update; beyond it sums of squares lose their digits, and training never goes there
# [choice] A larger update is cut down to this many times the others' median. Honest clients of very unequal data, ranks
# and layers were measured at up to 2.3 times, so none of them is touched.
CLIP_ABOVE = 2.5
PARTS = ("adapter", "head")  # compared one by one: a head is small, and a whole update's allowance would drown it


@dataclass(frozen=True)
class Change:
    """How far a reply goes from its baseline: norms of adapter and head, and how many values each has."""

    norms: tuple[float, float]
    sizes: tuple[int, int]


def measure_change(after: Tensors, before: Tensors) -> Change:
    """The change of floating-point tensors; one that `before` does not hold, of a fresh LoRA say, counts from zero."""
    changes = subtract(after, before)
    each = _compute_norms(list(changes.values()))
    heads = _find_heads(tuple(changes))
    sizes = [change.numel() for change in changes.values()]
    head_size = sum(size for size, is_in in zip(sizes, heads, strict=True) if is_in)
    return Change(
        (
            math.hypot(*(norm for norm, is_in in zip(each, heads, strict=True) if not is_in)),
            math.hypot(*(norm for norm, is_in in zip(each, heads, strict=True) if is_in)),
        ),
        (sum(sizes) - head_size, head_size),
    )


def subtract(after: Tensors, before: Tensors) -> Tensors:
    """The difference of every floating-point tensor of `after`, by name."""
    moving = {name: tensor for name, tensor in after.items() if tensor.is_floating_point()}
    shared = [name for name in moving if name in before]
    if shared:
        differences = torch._foreach_sub([moving[name] for name in shared], [before[name] for name in shared])
        moving |= zip(shared, differences, strict=True)
    return moving


def compare_changes(changes: Sequence[Change], examples: Sequence[int]) -> tuple[list[list[float]], list[list[float]]]:
    """How many times the others' median each client's adapter and head go, and those medians; by part, then client.

    A client of n times the examples takes n times the steps, and one of n times the values has n times as many that
    move: either may go sqrt(n) times as far. Where the others stand still nothing can be compared: 0.
    """
    ratios, medians = [], []
    for part in range(len(PARTS)):
        norms = [change.norms[part] for change in changes]
        scales = [math.sqrt(n * change.sizes[part]) for n, change in zip(examples, changes, strict=True)]
        medians.append(find_medians_of_others(norms))
        allowances = [
            max(1.0, own / others) if others > 0 else 1.0
            for own, others in zip(scales, find_medians_of_others(scales), strict=True)
        ]
        ratios.append(
            [
                norm / (median * allowance) if median > 0 else 0.0
                for norm, median, allowance in zip(norms, medians[-1], allowances, strict=True)
            ]
        )
    return ratios, medians


def find_medians_of_others(values: Sequence[float]) -> list[float]:
    """For each of at least two values the median of all the others, of two middle ones the larger.

    So of three values the largest is compared with the second, which one stranger cannot move.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    ordered = [values[i] for i in order]
    others = [0.0] * len(values)
    middle = (len(values) - 1) // 2  # among the others
    for position, i in enumerate(order):
        others[i] = ordered[middle + (middle >= position)]
    return others


def scale_changes(after: Tensors, before: Tensors, adapter: float, head: float) -> Tensors:
    """The tensors with the change of the adapter and of the head times these factors; whole numbers stay."""
    scaled = dict(after)
    for name, change in subtract(after, before).items():
        factor = head if is_head(name) else adapter
        if factor != 1:
            scaled[name] = after[name] - (1 - factor) * change
    return scaled


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite. A few calls for all tensors: this runs for every client and round."""
    return math.isfinite(math.hypot(*_compute_norms([tensor for tensor in tensors if tensor.is_floating_point()])))


def _compute_norms(tensors: list[Tensor]) -> list[float]:
    if not tensors:
        return []
    norms: list[float] = torch.stack(torch._foreach_norm(tensors)).tolist()
    if math.isfinite(math.hypot(*norms)):
        return norms
    # The square of a large finite float32 is not one; twice as slow, so only here.
    return torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).tolist()


@lru_cache(maxsize=64)
def _find_heads(names: tuple[str, ...]) -> tuple[bool, ...]:
    return tuple(map(is_head, names))  # a client's names are the same in every round
