"""Soft clusters of clients: PCA, a Gaussian mixture with diagonal covariances, indices kept from round to round.

FedHFT (arXiv 2510.14054) fits a mixture after PCA. Ours [choice]: diagonal covariances, a warm start from the last
responsibilities, clusters matched to the old ones, a floor, and the number of clusters by BIC where it is not given.

Two BICs are computed, and the smaller of their two numbers of clusters is taken. The mixture's own BIC fails for few
clients: with one variance per cluster and direction it nearly always finds clusters among twelve clients of pure
noise. The BIC of hard clusters that share one diagonal covariance (unbiased for the means) nearly never does, but it
sometimes splits a true cluster, which the mixture's does not.

scikit-learn and SciPy are imported inside functions: importing them takes a second that most experiments do not need.
"""

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

STARTS = 5  # k-means++ starts of a fit without a warm start
LEAST_VARIANCE = 1e-3  # of a cluster, relative to the widest direction's: features have no natural unit


def fit_responsibilities(
    features: Tensor,
    count: int | Literal["auto"],
    previous: Tensor | None,
    *,
    floor: float = 0.02,
    components: int = 5,
    seed: int = 0,
    maximum: int = 6,
) -> Tensor:
    """Responsibilities (clients, clusters) float64, rows sum to 1, of a mixture fitted to features (clients, f).

    `previous`, the last round's responsibilities, starts the fit where it separates as many clusters; the new clusters
    take its order, those that match no old one last. Without it they are ordered by their mean along the widest
    direction. "auto" takes the number of clusters that BIC prefers, at most `maximum` and half the clients. Identical
    clients, or fewer clients than clusters, get equal responsibilities. Raises ValueError when clusters x floor is not
    below 1, or when `previous` has another number of clients.
    """
    clients, seed = len(features), seed % 2**32  # scikit-learn takes no larger seed
    if previous is not None and len(previous) != clients:
        raise ValueError(
            f"The last responsibilities need a row for each of {clients} clients. Received: {len(previous)}."
        )
    counts = list(range(1, min(maximum, max(1, clients // 2)) + 1)) if count == "auto" else [count]
    if counts[-1] * floor >= 1:
        raise ValueError(f"The floor leaves nothing to assign: keep it below 1 / {counts[-1]}. Received: {floor}.")
    if clients < max(2, counts[0]) or bool((features == features[0]).all()):
        return torch.full((clients, counts[0]), 1 / counts[0], dtype=torch.float64)
    points = _project(features, components, seed)
    fits = [_fit_mixture(points, number, previous, seed) for number in counts]
    fit = fits[_choose_fit(points, fits, seed)]
    width = fit.n_components
    probabilities = torch.from_numpy(fit.predict_proba(points))  # (clients, clusters)
    order = fit.means_[:, 0].argsort().tolist() if previous is None else _match_clusters(previous, probabilities)
    return (1 - width * floor) * probabilities[:, order] + floor


def sketch_matrices(d_out: int, d_in: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian matrices (size, d_out) and (d_in, size), determined by the seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, d_out, generator=draw), torch.randn(d_in, size, generator=draw)


def sketch(factors: Factors, left: Tensor, right: Tensor) -> Tensor:
    """The product left B A right, flattened: left (p, d_out), right (d_in, q) -> (p q,).

    It depends on B A only, not on how it is factored, so clients with different random A's can be compared.
    """
    b, a = factors
    return ((left.double() @ b.double()) @ (a.double() @ right.double())).flatten().to(b.dtype)


def _project(features: Tensor, components: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    raw = features.double().cpu().numpy()
    directions = min(components, len(raw) - 1, raw.shape[1])
    solver = "arpack" if directions < min(raw.shape) else "full"  # a few directions of many: no full decomposition
    return PCA(directions, svd_solver=solver, random_state=seed).fit_transform(raw)  # (clients, components)


def _fit_mixture(points: np.ndarray, number: int, previous: Tensor | None, seed: int) -> "GaussianMixture":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    start = _find_start_means(points, number, previous)
    mixture = GaussianMixture(
        number,
        covariance_type="diag",
        reg_covar=LEAST_VARIANCE * float(points.var(axis=0).max()),
        n_init=1 if start is not None else STARTS,
        init_params="k-means++",
        means_init=start,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # identical clients count as one point: harmless
        return mixture.fit(points)


def _choose_fit(points: np.ndarray, fits: list["GaussianMixture"], seed: int) -> int:
    """The index of the fit with fewer clusters of the two that the BICs prefer; `fits` grow in clusters."""
    if len(fits) == 1:
        return 0
    soft = [fit.bic(points) for fit in fits]
    hard = [_compute_hard_bic(points, fit.n_components, seed) for fit in fits]
    return int(min(np.argmin(soft), np.argmin(hard)))


def _compute_hard_bic(points: np.ndarray, number: int, seed: int) -> float:
    """BIC of `number` k-means clusters, whose parameters are their means, sizes and one diagonal covariance."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clients, width = points.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        hard = KMeans(number, n_init=STARTS, random_state=seed).fit(points)
    sizes = np.bincount(hard.labels_, minlength=number)  # (clusters,)
    squares = ((points - hard.cluster_centers_[hard.labels_]) ** 2).sum(axis=0)  # (components,)
    variance = np.maximum(squares / (clients - number), LEAST_VARIANCE * points.var(axis=0).max())
    within = clients * np.log(2 * np.pi * variance) + squares / variance  # -2 log-likelihood, by component
    between = -2 * (sizes * np.log(np.maximum(sizes, 1) / clients)).sum()
    return float(within.sum() + between + (number * width + width + number - 1) * np.log(clients))


def _find_start_means(points: np.ndarray, number: int, previous: Tensor | None) -> np.ndarray | None:
    """The clusters' means under the last responsibilities, (clusters, components); None where those do not differ."""
    if previous is None or previous.shape[1] != number or number == 1:
        return None
    weights = previous.double().cpu().numpy()  # (clients, clusters)
    total = weights.sum(axis=0)
    if (total <= 0).any():
        return None
    means = (weights.T @ points) / total[:, None]
    deviation = float(points.std(axis=0).max())
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.eye(number) * deviation
    return means if float(gaps.min()) > 1e-2 * deviation else None


def _match_clusters(previous: Tensor, probabilities: Tensor) -> list[int]:
    """The new clusters in the order of the old ones with which they share most clients, unmatched ones last."""
    from scipy.optimize import linear_sum_assignment

    _, new = linear_sum_assignment((previous.double().cpu().mT @ probabilities).numpy(), maximize=True)  # (old, new)
    return [*new, *(j for j in range(probabilities.shape[1]) if j not in new)]
