"""Soft clusters: planted ones are found, names stay, and nothing breaks where there are none."""

import warnings

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from fedpeft.aggregation import responsibilities, sketch, sketch_matrices


def planted(groups, clients=12, width=40, seed=0, spread=0.3):
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(groups, width, generator=draw)
    truth = [k % groups for k in range(clients)]
    return centres[truth] + spread * torch.randn(clients, width, generator=draw), truth


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("count", ["given", "auto"])
@pytest.mark.parametrize("clients", [12, 50])
def test_planted_clusters_are_found(groups, count, clients):
    for seed in range(3):
        features, truth = planted(groups, clients, seed=seed)
        shares = responsibilities(features, groups if count == "given" else "auto", None, seed=seed)
        assert adjusted_rand_score(truth, shares.argmax(1).tolist()) == 1.0
        assert torch.allclose(shares.sum(1), torch.ones(clients, dtype=torch.float64))
        assert float(shares.min()) >= 0.02 - 1e-12


def test_clusters_keep_their_places_while_features_drift():
    features, _ = planted(3)
    before = responsibilities(features, 3, None, seed=0)
    for order in ([2, 0, 1], [1, 0, 2]):  # the old names in another order: the new ones must follow
        after = responsibilities(features + 0.2 * torch.randn(12, 40), 3, before[:, order], seed=5)
        assert torch.equal(after.argmax(1), before[:, order].argmax(1))


def test_order_of_clients_only_orders_the_result():
    features, _ = planted(2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    whole, permuted = (responsibilities(f, 2, None, seed=0) for f in (features, features[order]))
    agreement = [permuted, permuted.flip(1)]  # without a history names are free
    assert min(float((whole[order] - p).abs().max()) for p in agreement) < 1e-6


@pytest.mark.parametrize("features", [torch.ones(6, 5), torch.randn(1, 5), torch.randn(2, 5)])
def test_clients_that_cannot_be_told_apart_are_shared_evenly(features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = responsibilities(features, 3, None, seed=0)
    assert torch.allclose(shares, torch.full((len(features), 3), 1 / 3, dtype=torch.float64))


def test_a_floor_too_high_is_refused():
    with pytest.raises(ValueError, match="Received"):
        responsibilities(torch.randn(6, 5), 3, None, floor=0.4)


def test_a_sketch_depends_on_the_product_alone():
    draw = torch.Generator().manual_seed(0)
    b, a, turn = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((7, 3), (3, 12), (3, 3)))
    left, right = (m.double() for m in sketch_matrices(7, 12, 4, seed=1))
    same = sketch((b @ torch.linalg.inv(turn), turn @ a), left, right)
    assert torch.allclose(sketch((b, a), left, right), same)
    assert torch.allclose(same, (left @ (b @ a) @ right).flatten())
    assert not torch.allclose(same, sketch((b + 0.1, a), left, right))
