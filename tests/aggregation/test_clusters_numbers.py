"""The numbers behind soft clusters: the BIC against densities written out, and what a warm start is taken from."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedpeft.aggregation import clusters
from fedpeft.aggregation.clusters import fit_responsibilities


def make_groups(gap, clients=10, width=3):
    draw = np.random.default_rng(0)
    truth = np.arange(clients) % 2
    return gap * truth[:, None] + draw.normal(size=(clients, width)), truth


@pytest.mark.parametrize("number", [1, 2])
def test_the_bic_of_hard_clusters_is_that_of_their_densities(number):
    points, truth = make_groups(20.0)
    labels = truth if number == 2 else np.zeros_like(truth)
    means = np.stack([points[labels == j].mean(0) for j in range(number)])
    variance = ((points - means[labels]) ** 2).sum(0) / (len(points) - number)  # unbiased for the means
    fractions = np.bincount(labels) / len(points)
    likelihood = sum(
        math.log(fractions[j]) + norm.logpdf(point, means[j], np.sqrt(variance)).sum()
        for point, j in zip(points, labels, strict=True)
    )
    parameters = number * 3 + 3 + (number - 1)  # means, one variance a direction, sizes
    expected = -2 * likelihood + parameters * math.log(len(points))
    assert clusters._compute_hard_bic(points, number, 0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("previous", [[[1.0, 0.0]] * 10, [[0.5, 0.5]] * 10, [[1.0]] * 10, [[0.2, 0.3, 0.5]] * 10])
def test_no_warm_start_from_responsibilities_that_separate_nothing(previous):
    """An empty cluster, equal ones, and another number of clusters."""
    points, _ = make_groups(5.0)
    assert clusters._find_start_means(points, 2, torch.tensor(previous)) is None
    fitted = fit_responsibilities(torch.from_numpy(points), 2, torch.tensor(previous, dtype=torch.float64), seed=0)
    assert torch.isfinite(fitted).all() and fitted.shape == (10, 2)


def test_a_warm_start_is_the_means_under_the_last_responsibilities():
    points, truth = make_groups(5.0)
    previous = torch.nn.functional.one_hot(torch.from_numpy(truth), 2).double()
    start = clusters._find_start_means(points, 2, previous)
    assert start == pytest.approx(np.stack([points[truth == j].mean(0) for j in range(2)]))
    assert clusters._find_start_means(points, 3, previous) is None


@pytest.mark.parametrize(("clients", "counts"), [(2, [1]), (3, [1]), (5, [1, 2]), (20, [1, 2, 3, 4])])
def test_auto_tries_numbers_up_to_half_the_clients_and_the_maximum(monkeypatch, clients, counts):
    tried = []
    monkeypatch.setattr(clusters, "_choose_fit", lambda points, fits, seed: tried.extend(fits) or 0)
    features = torch.randn(clients, 5, generator=torch.Generator().manual_seed(0))
    fit_responsibilities(features, "auto", None, seed=0, maximum=4)
    assert [fit.n_components for fit in tried] == counts


def test_two_clients_that_differ_are_two_clusters():
    fitted = fit_responsibilities(torch.tensor([[0.0, 0.0], [9.0, 1.0]]), 2, None, seed=0)
    assert fitted.argmax(1).sort().values.tolist() == [0, 1] and float(fitted.max()) > 0.9
