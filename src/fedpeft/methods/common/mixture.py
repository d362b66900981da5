"""Mixtures of clusters' models, for clients that belong to several clusters by parts [derived from FedHFT]."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedpeft.aggregation import Factors, concat_factors, truncate
from fedpeft.federation.message import Scalar, Tensors
from fedpeft.methods.common.cumulative_delta import name_frozen_delta

Clusters = Sequence[Mapping[str, Factors]]  # the update of each cluster, by module


def mix_tensors(clusters: Sequence[Tensors], responsibilities: Tensor) -> Tensors:
    """sum_j P_j T_j of every named tensor, with responsibilities P (clusters,), summed in float64."""
    weights = responsibilities.tolist()
    return {
        name: _sum_weighted([(tensors[name], p) for tensors, p in zip(clusters, weights, strict=True)])
        for name in clusters[0]
    }


def mix_updates(clusters: Clusters, responsibilities: Tensor, ranks: Mapping[str, int]) -> Tensors:
    """D = sum_j P_j G_j on the modules of `ranks`, at those ranks, as the tensors of a frozen delta."""
    mixed = {}
    for module, rank in ranks.items():
        parts = [(g[module], p) for g, p in zip(clusters, responsibilities.tolist(), strict=True) if module in g]
        if parts:
            factors, weights = zip(*parts, strict=True)
            mixed[module] = truncate(concat_factors(factors, weights), rank)
    return name_frozen_delta(mixed)


def mix_for_clients(
    clusters: Clusters, responsibilities: Mapping[str, Tensor], ranks: Mapping[str, Mapping[str, int]]
) -> dict[str, Tensors]:
    """The mixture of every client in `ranks`, computed once for clients of equal responsibilities and ranks."""
    known: dict[tuple[object, ...], Tensors] = {}
    result = {}
    for client, own_ranks in ranks.items():
        key = (*responsibilities[client].tolist(), *own_ranks.items())
        if key not in known:
            known[key] = mix_updates(clusters, responsibilities[client], own_ranks)
        result[client] = known[key]
    return result


def _sum_weighted(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    return torch.stack([tensor.double() * weight for tensor, weight in terms]).sum(0).to(terms[0][0].dtype)


def describe_responsibilities(responsibilities: Tensor) -> dict[str, Scalar]:
    """A client's responsibilities (clusters,) for the log, in six digits, and the cluster with the largest."""
    parts = {f"responsibility_{j}": round(part, 6) for j, part in enumerate(responsibilities.tolist())}
    return {"cluster": int(responsibilities.argmax()), **parts}
