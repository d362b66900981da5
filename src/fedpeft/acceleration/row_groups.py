"""The client of each row of a batch, in a form that a batched product can use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGroups:
    """A batch divided into consecutive groups of equal size, each of one client's rows.

    The size is the largest possible: with equal numbers of rows there is one group per client.
    """

    runs: tuple[tuple[int, int], ...]  # (client, number of groups) of each run of consecutive rows of one client
    size: int  # rows of a group

    @classmethod
    def from_clients(cls, clients: Sequence[int]) -> "RowGroups":
        """The groups of a batch whose i-th row belongs to `clients[i]`; few where each client's rows are together."""
        lengths = [(client, len(list(rows))) for client, rows in groupby(clients)]
        size = math.gcd(*(length for _, length in lengths))
        return cls(tuple((client, length // size) for client, length in lengths), size)

    @property
    def count(self) -> int:
        """The number of groups."""
        return sum(repeats for _, repeats in self.runs)

    @property
    def rows(self) -> int:
        """The number of rows of the batch."""
        return self.count * self.size

    @property
    def clients(self) -> set[int]:
        """The clients that have rows."""
        return {client for client, _ in self.runs}

    def group(self, x: Tensor) -> Tensor:
        """x (batch, ..., d) as (groups, tokens, d); tokens may be flattened and rows repeated by beam search."""
        return x.reshape(self.count, -1, x.shape[-1])

    def expand(self, tensors: Mapping[int, Tensor]) -> Tensor:
        """Each group's tensor: (n, ...) by client, with n of its own -> (groups, largest n, ...), padded with zeros.

        A client that is not in `tensors` gets zeros. It is no gather, because the gradient of a gather is a scattered
        sum, which has no fixed order on a GPU.
        """
        shape = max((tensor.shape for tensor in tensors.values()), key=lambda shape: shape[0])
        empty = next(iter(tensors.values()))[:0]
        rows = {client: _pad(tensors.get(client, empty), shape[0]) for client in self.clients}
        return torch.cat([rows[client].expand(repeats, *shape) for client, repeats in self.runs])


def _pad(tensor: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...), padded with zeros."""
    if len(tensor) == size:
        return tensor
    return torch.cat((tensor, tensor.new_zeros(size - len(tensor), *tensor.shape[1:])))
