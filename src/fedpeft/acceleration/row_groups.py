"""Which client each row of a batch belongs to, in a form that a batched product can use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGroups:
    """A batch cut into consecutive groups of equal size, each of one client's rows.

    The size is the largest that fits: with equal numbers of rows for each client there is one group per client.
    """

    runs: tuple[tuple[int, int], ...]  # (client, number of groups) of each stretch of consecutive rows
    size: int  # rows of a group

    @classmethod
    def of(cls, rows: Sequence[int]) -> "RowGroups":
        """`rows` (batch,): the client of each row, in any order; fewest groups where each client's are together."""
        stretches = [(client, len(list(same))) for client, same in groupby(rows)]
        size = math.gcd(*(count for _, count in stretches))
        return cls(tuple((client, count // size) for client, count in stretches), size)

    @property
    def count(self) -> int:
        """How many groups there are."""
        return sum(repeats for _, repeats in self.runs)

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return self.count * self.size

    def group(self, x: Tensor) -> Tensor:
        """(batch, ..., d) -> (groups, tokens, d); also where tokens are flattened or rows repeated by beam search."""
        return x.reshape(self.count, -1, x.shape[-1])

    def expand(self, tensors: Mapping[int, Tensor]) -> Tensor:
        """By client (n, ...), n of each its own -> (groups, max n, ...), filled up with zeros.

        A client that is not in `tensors` has zeros only. Not a gather: the gradient of that is a scattered sum, in no
        fixed order on a GPU.
        """
        shape = max((t.shape for t in tensors.values()), key=lambda shape: shape[0])
        some = next(iter(tensors.values()))
        whole = {client: _filled(tensors.get(client, some[:0]), shape[0]) for client in {c for c, _ in self.runs}}
        return torch.cat([whole[client].expand(repeats, *shape) for client, repeats in self.runs])


def _filled(tensor: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...)."""
    if len(tensor) == size:
        return tensor
    return torch.cat((tensor, tensor.new_zeros(size - len(tensor), *tensor.shape[1:])))
