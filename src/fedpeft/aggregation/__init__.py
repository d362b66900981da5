"""Pure functions on stacked tensors: means, medians, manifolds, gauges."""

from fedpeft.aggregation.gauge import align, gauge
from fedpeft.aggregation.manifold import polar
from fedpeft.aggregation.mean import leave_one_out_mean_mix, weighted_mean
from fedpeft.aggregation.median import (
    combine,
    geometric_median,
    geometric_median_mix,
    gram,
    leave_one_out_median_mix,
    leave_one_out_medians,
)
from fedpeft.aggregation.named import mean_tensors, mixed_tensors

__all__ = [
    "align",
    "combine",
    "gauge",
    "geometric_median",
    "geometric_median_mix",
    "gram",
    "leave_one_out_mean_mix",
    "leave_one_out_median_mix",
    "leave_one_out_medians",
    "mean_tensors",
    "mixed_tensors",
    "polar",
    "weighted_mean",
]
