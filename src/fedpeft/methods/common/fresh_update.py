"""The update of a client that starts each round from a fresh LoRA: only its products B A say how far it went [derived].

A is random at the start and B zero, so most of the norm of their values is chance; the products start at zero. An
update of any B A shrinks with B alone.
"""

import math
from collections.abc import Iterable

from fedpeft.aggregation import Factors, frobenius_norm
from fedpeft.federation.influence import scale_changes
from fedpeft.federation.message import Tensors


def measure_products(factors: Iterable[Factors]) -> tuple[float, int]:
    """The norm of all products together, (sum ||B A||_F^2)^(1/2), from B (m, r) and A (r, d_in) of every module.

    And how many values the B's have: each moves the product by as much as any other.
    """
    pairs = list(factors)
    return math.hypot(*(float(frobenius_norm((b, a))) for b, a in pairs)), sum(b.numel() for b, _ in pairs)


def shrink_products(tensors: Tensors, baseline: Tensors, b: Iterable[str], adapter: float, head: float) -> Tensors:
    """The tensors with the B's of these names times `adapter` and the head's change from the baseline times `head`."""
    return scale_changes(tensors, baseline, 1.0, head) | {name: adapter * tensors[name] for name in b}
