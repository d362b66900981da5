"""Rules over named tensors: one dict per client."""

from collections.abc import Sequence

from torch import Tensor

from fedpeft.aggregation.mean import weighted_mean

Tensors = dict[str, Tensor]


def mean_tensors(replies: Sequence[Tensors], weights: Tensor | None = None) -> Tensors:
    """The weighted mean of every tensor; weights (clients,). Raises ValueError when names or shapes differ."""
    _require_alike(replies)
    return {name: _mean(replies, name, weights) for name in replies[0]}


def mixed_tensors(replies: Sequence[Tensors], groups: Sequence[Sequence[str]], mix: Tensor) -> Tensors:
    """One combination of all clients: the tensors of group g with the convex weights mix[g], mix (groups, clients).

    Raises ValueError when names or shapes differ, or when a tensor is not in exactly one group.
    """
    _require_alike(replies)
    if sorted(name for names in groups for name in names) != sorted(replies[0]):
        raise ValueError(f"Every tensor must be in one group. Received: groups {groups} for {sorted(replies[0])}.")
    share = {name: row for names, row in zip(groups, mix, strict=True) for name in names}
    return {name: _mean(replies, name, share[name]) for name in replies[0]}


def _mean(replies: Sequence[Tensors], name: str, weights: Tensor | None) -> Tensor:
    return weighted_mean([reply[name] for reply in replies], weights)


def _require_alike(replies: Sequence[Tensors]) -> None:
    if not replies:
        raise ValueError("An aggregate needs at least one client. Received: none.")
    first = {name: tensor.shape for name, tensor in replies[0].items()}
    for reply in replies[1:]:
        shapes = {name: tensor.shape for name, tensor in reply.items()}
        if shapes != first:
            unlike = {(name, tuple(shape)) for name, shape in first.items() ^ shapes.items()}
            raise ValueError(f"Clients' tensors differ in name or shape. Received: {sorted(unlike)[:3]}.")
