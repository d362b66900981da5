"""Pure functions on stacked tensors: means, medians, manifolds, gauges, low-rank sums, masks, clusters."""

from fedpeft.aggregation.agglomerative import cluster_by_silhouette, measure_cosine_distances
from fedpeft.aggregation.clusters import fit_responsibilities, sketch, sketch_matrices
from fedpeft.aggregation.gauge import align, align_factors, gauge
from fedpeft.aggregation.gradient_sketch import count_sketch_sizes, draw_sketch_matrices, find_directions
from fedpeft.aggregation.lowrank import (
    Factors,
    concat_factors,
    frobenius_norm,
    pad_rank,
    residual,
    ridge_corrected_mean,
    row_energy,
    take_rank,
    truncate,
)
from fedpeft.aggregation.manifold import DependentRowsError, polar
from fedpeft.aggregation.masks import MaskedUpdate, overlap_mean, pack_rows, top_rows, unpack_rows
from fedpeft.aggregation.mean import leave_one_out_mean_mix, weighted_mean
from fedpeft.aggregation.median import (
    combine,
    geometric_median,
    geometric_median_mix,
    gram,
    leave_one_out_median_mix,
    leave_one_out_medians,
)
from fedpeft.aggregation.named import mean_tensors
from fedpeft.aggregation.similarity import leave_one_out_similarity_mix

__all__ = [
    "DependentRowsError",
    "Factors",
    "MaskedUpdate",
    "align",
    "align_factors",
    "cluster_by_silhouette",
    "combine",
    "concat_factors",
    "count_sketch_sizes",
    "draw_sketch_matrices",
    "find_directions",
    "fit_responsibilities",
    "frobenius_norm",
    "gauge",
    "geometric_median",
    "geometric_median_mix",
    "gram",
    "leave_one_out_mean_mix",
    "leave_one_out_median_mix",
    "leave_one_out_medians",
    "leave_one_out_similarity_mix",
    "mean_tensors",
    "measure_cosine_distances",
    "overlap_mean",
    "pack_rows",
    "pad_rank",
    "polar",
    "residual",
    "ridge_corrected_mean",
    "row_energy",
    "sketch",
    "sketch_matrices",
    "take_rank",
    "top_rows",
    "truncate",
    "unpack_rows",
    "weighted_mean",
]
