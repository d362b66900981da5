"""Means of named tensors, one dict per client."""

from collections.abc import Sequence

from torch import Tensor

from fedpeft.aggregation.mean import weighted_mean

Tensors = dict[str, Tensor]


def mean_tensors(replies: Sequence[Tensors], weights: Tensor | None = None) -> Tensors:
    """The mean of every tensor with weights (clients,). Raises ValueError when names or shapes differ."""
    _require_alike(replies)
    return {name: weighted_mean([reply[name] for reply in replies], weights) for name in replies[0]}


def _require_alike(replies: Sequence[Tensors]) -> None:
    if not replies:
        raise ValueError("An aggregate needs at least one client. Received: none.")
    first = {name: tensor.shape for name, tensor in replies[0].items()}
    for reply in replies[1:]:
        shapes = {name: tensor.shape for name, tensor in reply.items()}
        if shapes != first:
            unlike = {(name, tuple(shape)) for name, shape in first.items() ^ shapes.items()}
            raise ValueError(f"Clients' tensors differ in name or shape. Received: {sorted(unlike)[:3]}.")
