"""Rules over named tensors: one dict per client."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpeft.aggregation.mean import weighted_mean

Tensors = dict[str, Tensor]


def mean_tensors(replies: Sequence[Tensors], weights: Tensor | None = None) -> Tensors:
    """The weighted mean of every tensor; weights (clients,). Raises ValueError when keys differ."""
    return {
        name: weighted_mean(torch.stack([reply[name] for reply in _alike(replies)]), weights) for name in replies[0]
    }


def mixed_tensors(replies: Sequence[Tensors], groups: Sequence[Sequence[str]], mix: Tensor) -> Tensors:
    """One combination of all clients: the tensors of group g with the convex weights mix[g], mix (groups, clients)."""
    _alike(replies)
    mixed: Tensors = {}
    for names, share in zip(groups, mix, strict=True):
        mixed |= {name: weighted_mean(torch.stack([reply[name] for reply in replies]), share) for name in names}
    return {name: mixed[name] for name in replies[0]}


def _alike(replies: Sequence[Tensors]) -> Sequence[Tensors]:
    for reply in replies[1:]:
        if reply.keys() != replies[0].keys():
            raise ValueError(f"Clients' tensors differ. Received: {sorted(reply.keys() ^ replies[0].keys())[:3]}.")
    return replies
