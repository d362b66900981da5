"""The matrix products that a training step cannot do without, found by watching its forward, to be timed bare.

Every linear layer, `x @ w` and attention of the forward is counted: y = x W^T always; its backward only where autograd
needs it, as `requires_grad` of what goes in tells: dx = g W from the top down to the lowest trained place, dW = g^T x
for trained factors only. Attention is Q K^T and P V, and of dV = P^T g, dP = g V^T, dQ = dS K, dK = dS^T Q those that
are needed. Not counted: biases, softmax, norms, activations, embeddings, loss, optimiser, padding made and rows read.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LINEAR, MATMUL = (F.linear,), (torch.matmul, Tensor.matmul, Tensor.__matmul__)
UNKNOWN = (torch.mm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.mm, Tensor.bmm)
KINDS = ("layers", "attention", "adapter and head")


@dataclass(frozen=True)
class Product:
    """One `torch.mm` or `torch.bmm`, its operands (maybe transposed views) and room for what it gives."""

    kind: str
    left: Tensor
    right: Tensor
    out: Tensor

    @property
    def flop(self) -> int:
        return 2 * self.left.numel() * self.right.shape[-1]


class Products(TorchFunctionMode):
    """Inside the block, what the forwards multiply is noted. Weights are the model's own; activations of one shape
    share memory, filled at random, as do the results, so that no time goes to fetching new memory."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank  # products with a side as small as this are the adapter's or the head's
        self.found: list[Product] = []
        self._room: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LINEAR:
            self._linear(args[0], args[1])
        elif func in MATMUL:
            self._linear(args[0], args[1].mT)
        elif func is F.scaled_dot_product_attention:
            self._attention(*args[:3])
        elif func is torch.bmm:
            self._pooling(args[0], args[1])
        elif func in UNKNOWN:
            raise SystemExit(f"a product that is not counted: {func}")
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor) -> None:
        """(..., in) and (out, in)."""
        if weight.dim() != 2:
            raise SystemExit(f"a product that is not counted: {tuple(x.shape)} by {tuple(weight.shape)}")
        out_width, in_width = weight.shape
        rows, fixed = x.numel() // in_width, weight.detach()
        inputs, outputs = self._tensor("in", rows, in_width), self._tensor("in", rows, out_width)
        kind = KINDS[2] if min(weight.shape) <= self.rank else KINDS[0]
        self._add(kind, inputs, fixed.t())
        if x.requires_grad:
            self._add(kind, outputs, fixed)
        if weight.requires_grad:
            self._add(kind, outputs.t(), inputs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """(batch, heads, length, width) each."""
        (length, width), heads = query.shape[-2:], query.shape[0] * query.shape[1]
        states, weights = self._tensor("in", heads, length, width), self._tensor("in", heads, length, length)
        through = query.requires_grad or key.requires_grad
        forward = [(states, states.mT), (weights, states)]
        backward = [
            (value.requires_grad, weights.mT, states),
            (through, states, states.mT),
            (query.requires_grad, weights, states),
            (key.requires_grad, weights.mT, states),
        ]
        for left, right in forward + [(left, right) for needed, left, right in backward if needed]:
            self._add(KINDS[1], left, right)

    def _pooling(self, weights: Tensor, states: Tensor) -> None:
        """(batch, 1, length) and (batch, length, width): a mean over tokens as a product."""
        left, right = self._tensor("in", *weights.shape), self._tensor("in", *states.shape)
        given = self._tensor("in", *weights.shape[:2], states.shape[2])
        self._add(KINDS[2], left, right)
        if states.requires_grad:
            self._add(KINDS[2], left.mT, given)

    def _add(self, kind: str, left: Tensor, right: Tensor) -> None:
        out = self._tensor("out", *left.shape[:-1], right.shape[-1])
        self.found.append(Product(kind, left, right, out))

    def _tensor(self, role: str, *shape: int) -> Tensor:
        if (role, shape) not in self._room:
            self._room[role, shape] = torch.randn(shape)
        return self._room[role, shape]

    def seconds(self) -> dict[str, float]:
        """All of them done once, bare, by kind."""
        return {kind: _timed([p for p in self.found if p.kind == kind]) for kind in KINDS}


def _timed(products: list[Product]) -> float:
    calls = list(_calls(products))
    began = time.perf_counter()
    for multiply, left, right, out in calls:
        multiply(left, right, out=out)
    return time.perf_counter() - began


def _calls(products: list[Product]) -> Iterator[tuple[Any, Tensor, Tensor, Tensor]]:
    for product in products:
        multiply = torch.mm if product.left.dim() == 2 else torch.bmm
        yield multiply, product.left, product.right, product.out
