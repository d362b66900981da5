"""Soft clusters of clients: PCA, a Gaussian mixture with diagonal covariances, names kept from round to round.

FedHFT (arXiv 2510.14054) fits a mixture with PCA. Ours [choice]: diagonal covariances, a warm start from the last
responsibilities, clusters matched to the old ones, a floor, and the number of clusters by BIC where it is not given.

"By BIC" means by two of them, of which the smaller number is taken. The mixture's own is of no use alone for few
clients: with a variance per cluster and direction it finds clusters among twelve clients of pure noise nearly always.
That of hard clusters which share one diagonal covariance, unbiased for the means taken out of it, nearly never does;
but it sometimes splits a true cluster, which the mixture's does not.

scikit-learn and SciPy are imported where they are needed: their second would delay the first step of every experiment.
"""

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

STARTS = 5  # k-means++ starts of a cold fit
LEAST_VARIANCE = 1e-3  # of a cluster, relative to the widest direction: features have no natural unit


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

    `previous` starts the fit where it tells as many clusters apart, and the new clusters take its order, those without
    an old one last; without it they go by their mean along the widest direction. "auto" takes the number of clusters
    up to `maximum`, and to half the clients, that BIC prefers. Clients that cannot be told apart, or fewer clients
    than clusters, are shared out evenly. Raises ValueError when clusters x floor is not below 1, or when `previous` is
    not of these clients.
    """
    clients, seed = len(features), seed % 2**32  # scikit-learn takes no larger one
    if previous is not None and len(previous) != clients:
        raise ValueError(
            f"The last responsibilities need a row for each of {clients} clients. Received: {len(previous)}."
        )
    counts = list(range(1, min(maximum, max(1, clients // 2)) + 1)) if count == "auto" else [count]
    if counts[-1] * floor >= 1:
        raise ValueError(f"The floor leaves nothing to share: keep it below 1 / {counts[-1]}. Received: {floor}.")
    if clients < max(2, counts[0]) or bool((features == features[0]).all()):
        return torch.full((clients, counts[0]), 1 / counts[0], dtype=torch.float64)
    points = _projected(features, components, seed)
    fits = [_fitted(points, number, previous, seed) for number in counts]
    fit = fits[_preferred(points, fits, seed)]
    width = fit.n_components
    shares = torch.from_numpy(fit.predict_proba(points))  # (clients, clusters)
    order = fit.means_[:, 0].argsort().tolist() if previous is None else _matched(previous, shares)
    return (1 - width * floor) * shares[:, order] + floor


def sketch_matrices(d_out: int, d_in: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian matrices (size, d_out) and (d_in, size), the same for everybody who has the seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, d_out, generator=draw), torch.randn(d_in, size, generator=draw)


def sketch(factors: Factors, left: Tensor, right: Tensor) -> Tensor:
    """left B A right, flattened: left (p, d_out), right (d_in, q) -> (p q,).

    It depends on the product only, not on how it is factored, so clients with different random A's can be compared.
    """
    b, a = factors
    return ((left.double() @ b.double()) @ (a.double() @ right.double())).flatten().to(b.dtype)


def _projected(features: Tensor, components: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    raw = features.double().cpu().numpy()
    kept = min(components, len(raw) - 1, raw.shape[1])
    solver = "arpack" if kept < min(raw.shape) else "full"  # a few directions of many: no full decomposition
    return PCA(kept, svd_solver=solver, random_state=seed).fit_transform(raw)  # (clients, components)


def _fitted(points: np.ndarray, number: int, previous: Tensor | None, seed: int) -> "GaussianMixture":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    means = _means(points, number, previous)
    mixture = GaussianMixture(
        number,
        covariance_type="diag",
        reg_covar=LEAST_VARIANCE * float(points.var(axis=0).max()),
        n_init=1 if means is not None else STARTS,
        init_params="k-means++",
        means_init=means,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # identical clients are fewer than clusters: harmless
        return mixture.fit(points)


def _preferred(points: np.ndarray, fits: list["GaussianMixture"], seed: int) -> int:
    """The place of the fit that both BICs can bear, of fits in order of their number of clusters."""
    if len(fits) == 1:
        return 0
    soft = [fit.bic(points) for fit in fits]
    hard = [_hard_bic(points, fit.n_components, seed) for fit in fits]
    return int(min(np.argmin(soft), np.argmin(hard)))


def _hard_bic(points: np.ndarray, number: int, seed: int) -> float:
    """BIC of `number` hard clusters by k-means: their means, sizes and one diagonal covariance are its parameters."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clients, width = points.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(number, n_init=STARTS, random_state=seed).fit(points)
    sizes = np.bincount(found.labels_, minlength=number)  # (clusters,)
    squares = ((points - found.cluster_centers_[found.labels_]) ** 2).sum(axis=0)  # (components,)
    variance = np.maximum(squares / (clients - number), LEAST_VARIANCE * points.var(axis=0).max())
    within = clients * np.log(2 * np.pi * variance) + squares / variance  # -2 log-likelihood, by component
    between = -2 * (sizes * np.log(np.maximum(sizes, 1) / clients)).sum()
    return float(within.sum() + between + (number * width + width + number - 1) * np.log(clients))


def _means(points: np.ndarray, number: int, previous: Tensor | None) -> np.ndarray | None:
    """The clusters' means under the last responsibilities; None where those do not tell clusters apart."""
    if previous is None or previous.shape[1] != number or number == 1:
        return None
    weights = previous.double().cpu().numpy()  # (clients, clusters)
    total = weights.sum(axis=0)
    if (total <= 0).any():
        return None
    means = (weights.T @ points) / total[:, None]
    spread = float(points.std(axis=0).max())
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.eye(number) * spread
    return means if float(gaps.min()) > 1e-2 * spread else None


def _matched(previous: Tensor, shares: Tensor) -> list[int]:
    """New clusters in the order of the old ones whose clients they share; those without an old one come last."""
    from scipy.optimize import linear_sum_assignment

    _, new = linear_sum_assignment((previous.double().cpu().mT @ shares).numpy(), maximize=True)  # (old, new)
    return [*new, *(j for j in range(shares.shape[1]) if j not in new)]
