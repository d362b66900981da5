"""Hard clusters of clients by the angles between their updates, as many as the silhouette prefers.

FedLEASE (arXiv 2509.15087): average linkage on mean cosine distances, the number by silhouette. scikit-learn is
imported inside the function: importing it takes a second that most experiments do not need.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def measure_cosine_distances(points: Sequence[Sequence[Tensor]]) -> Tensor:
    """Distances (clients, clients) float64, mean over tensors of 1 - cos; `points` hold each client's tensors in order.

    A tensor of zeros has the distance 1 from every other.
    """
    total = torch.zeros(len(points), len(points), dtype=torch.float64)
    for tensors in zip(*points, strict=True):
        rows = torch.stack([tensor.double().flatten().cpu() for tensor in tensors])  # (clients, d)
        rows = torch.nn.functional.normalize(rows, dim=1)
        total += 1 - rows @ rows.mT
    distances = (total / len(points[0])).clamp(min=0)
    return ((distances + distances.mT) / 2).fill_diagonal_(0)


def cluster_by_silhouette(distances: Tensor, maximum: int) -> list[int]:
    """The cluster of each client, numbered in order of their first clients, from distances (clients, clients).

    The number of clusters, 2 to `maximum`, is that of the best mean silhouette, of equal ones the smaller. One cluster
    where no silhouette is positive [choice]: fewer than three clients, or clients that are all alike.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    matrix, best, best_score = distances.numpy(), [0] * len(distances), 0.0
    for number in range(2, min(maximum, len(matrix) - 1) + 1):
        labels = AgglomerativeClustering(number, metric="precomputed", linkage="average").fit_predict(matrix)
        score = float(silhouette_score(matrix, labels, metric="precomputed"))
        if score > best_score + 1e-12:
            best, best_score = labels.tolist(), score
    order = list(dict.fromkeys(best))
    return [order.index(label) for label in best]
