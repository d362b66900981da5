"""Average linkage and silhouettes against loops; planted groups are found, and clients alike are one cluster."""

from itertools import combinations

import pytest
import torch

from fedpeft.aggregation import cluster_by_silhouette, measure_cosine_distances


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def link_by_hand(d, number):
    """Groups merged one by one, the two of the smallest mean distance first."""
    groups = [[i] for i in range(len(d))]
    while len(groups) > number:
        a, b = min(combinations(groups, 2), key=lambda pair: d[pair[0]][:, pair[1]].mean())
        groups = [group for group in groups if group not in (a, b)] + [a + b]
    return groups


def score_by_hand(d, groups):
    """The mean silhouette; 0 for a client alone in its cluster."""
    values = []
    for group in groups:
        for i in group:
            if len(group) == 1:
                values.append(0.0)
                continue
            inside = float(sum(d[i, j] for j in group) / (len(group) - 1))
            outside = min(float(d[i][other].mean()) for other in groups if other is not group)
            values.append((outside - inside) / max(inside, outside))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(8))
def test_labels_are_those_of_loops(seed):
    points = [[draw(6, seed=100 * seed + i), draw(2, 3, seed=100 * seed + i + 50)] for i in range(9)]
    d = measure_cosine_distances(points)
    by_number = {number: link_by_hand(d, number) for number in range(2, 6)}
    best = max(by_number, key=lambda number: score_by_hand(d, by_number[number]))
    labels = cluster_by_silhouette(d, 5)
    assert {frozenset(i for i, own in enumerate(labels) if own == label) for label in labels} == {
        frozenset(group) for group in by_number[best]
    }
    assert [labels.index(label) for label in sorted(set(labels))] == sorted(labels.index(k) for k in set(labels))


def test_distances_are_mean_cosines_of_each_tensor():
    points = [[draw(6, seed=i), draw(2, 3, seed=i + 50)] for i in range(4)]
    d = measure_cosine_distances(points)
    for i, j in combinations(range(4), 2):
        cosines = [
            torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in zip(points[i], points[j], strict=True)
        ]
        assert float(d[i, j]) == pytest.approx(1 - float(sum(cosines)) / 2) == pytest.approx(float(d[j, i]))
    assert not d.diagonal().any()
    scaled = measure_cosine_distances([[3 * a, 0.1 * b] for a, b in points])
    torch.testing.assert_close(scaled, d)


def test_planted_groups_are_found():
    centres = [draw(40, seed=j) for j in range(3)]
    points = [[centres[i % 3] + 0.4 * draw(40, seed=10 + i)] for i in range(12)]
    assert cluster_by_silhouette(measure_cosine_distances(points), 6) == [0, 1, 2] * 4
    assert len(set(cluster_by_silhouette(measure_cosine_distances(points), 2))) == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_clients_or_all_alike_are_one_cluster(count):
    alike = draw(10, seed=0)
    assert cluster_by_silhouette(measure_cosine_distances([[alike]] * count), 4) == [0] * count
    assert cluster_by_silhouette(measure_cosine_distances([[0 * alike]] * 2), 4) == [0, 0]
