"""Soft clusters of clients: PCA, a Gaussian mixture with diagonal covariances, names kept from round to round.

FedHFT (arXiv 2510.14054) fits a mixture with PCA. Ours [choice]: diagonal covariances, a warm start from the last
responsibilities, clusters matched to the old ones, a floor, and the number of clusters by BIC where it is not given.
"""

import warnings
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors

STARTS = 5  # k-means++ starts of a cold fit


def responsibilities(
    features: Tensor,
    count: int | Literal["auto"],
    previous: Tensor | None,
    *,
    floor: float = 0.02,
    components: int = 5,
    seed: int = 0,
    maximum: int = 6,
) -> Tensor:
    """(clients, clusters) float64, rows sum to 1, from features (clients, f) and last round's responsibilities.

    `previous` starts the fit where it tells clusters apart, and the new clusters take its order. "auto" takes the
    number of clusters up to `maximum` with the least BIC. Clients that cannot be told apart, or fewer clients than
    clusters, are shared out evenly. Raises ValueError when clusters x floor is not below 1.
    """
    clients = len(features)
    counts = list(range(1, min(maximum, max(1, clients // 2)) + 1)) if count == "auto" else [count]
    if counts[-1] * floor >= 1:
        raise ValueError(f"The floor leaves nothing to share: keep it below 1 / {counts[-1]}. Received: {floor}.")
    if clients < max(2, counts[0]) or bool((features == features[0]).all()):
        return torch.full((clients, counts[0]), 1 / counts[0], dtype=torch.float64)
    points = _projected(features, components, seed)
    fits = [_fitted(points, number, previous, seed) for number in counts]
    best = min(fits, key=lambda fit: fit.bic(points))
    shares = torch.from_numpy(best.predict_proba(points))  # (clients, clusters)
    if previous is not None and previous.shape == shares.shape:
        shares = shares[:, _matched(previous, shares)]
    width = shares.shape[1]
    return (1 - width * floor) * shares + floor


def sketch_matrices(d_out: int, d_in: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian matrices (size, d_out) and (d_in, size), the same for everybody who has the seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, d_out, generator=draw), torch.randn(d_in, size, generator=draw)


def sketch(factors: Factors, left: Tensor, right: Tensor) -> Tensor:
    """left B A right, flattened: left (p, d_out), right (d_in, q) -> (p q,).

    It depends on the product only, not on how it is factored, so clients with different random A's can be compared.
    """
    b, a = factors
    return ((left @ b) @ (a @ right)).flatten()


def _projected(features: Tensor, components: int, seed: int) -> np.ndarray:
    raw = features.double().cpu().numpy()
    kept = min(components, len(raw) - 1, raw.shape[1])
    solver = "arpack" if kept < min(raw.shape) else "full"  # a few directions of many: no full decomposition
    return PCA(kept, svd_solver=solver, random_state=seed).fit_transform(raw)  # (clients, components)


def _fitted(points: np.ndarray, number: int, previous: Tensor | None, seed: int) -> GaussianMixture:
    means = _means(points, number, previous)
    mixture = GaussianMixture(
        number,
        covariance_type="diag",
        reg_covar=1e-3 * float(points.var(axis=0).max()),  # relative: features have no natural unit
        n_init=1 if means is not None else STARTS,
        init_params="k-means++",
        means_init=means,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # identical clients are fewer than clusters: harmless
        return mixture.fit(points)


def _means(points: np.ndarray, number: int, previous: Tensor | None) -> np.ndarray | None:
    """The clusters' means under the last responsibilities; None where those do not tell clusters apart."""
    if previous is None or previous.shape[1] != number or number == 1:
        return None
    weights = previous.numpy()  # (clients, clusters)
    total = weights.sum(axis=0)
    if (total <= 0).any():
        return None
    means = (weights.T @ points) / total[:, None]
    spread = float(points.std(axis=0).max())
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.eye(number) * spread
    return means if float(gaps.min()) > 1e-2 * spread else None


def _matched(previous: Tensor, shares: Tensor) -> list[int]:
    """For every old cluster the new one that shares most of its clients."""
    _, new = linear_sum_assignment((previous.mT @ shares).numpy(), maximize=True)  # (old, new)
    return list(new)
