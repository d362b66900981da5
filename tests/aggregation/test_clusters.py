"""Soft clusters: planted ones are found, names stay, and nothing breaks where there are none."""

import warnings

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from fedpeft.aggregation import fit_responsibilities, sketch, sketch_matrices


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
        shares = fit_responsibilities(features, groups if count == "given" else "auto", None, seed=seed)
        assert adjusted_rand_score(truth, shares.argmax(1).tolist()) == 1.0
        assert torch.allclose(shares.sum(1), torch.ones(clients, dtype=torch.float64))
        assert float(shares.min()) >= 0.02 - 1e-12


def test_clusters_keep_their_places_while_features_drift():
    features, _ = planted(3)
    before = fit_responsibilities(features, 3, None, seed=0)
    for order in ([2, 0, 1], [1, 0, 2]):  # the old names in another order: the new ones must follow
        after = fit_responsibilities(features + 0.2 * torch.randn(12, 40), 3, before[:, order], seed=5)
        assert torch.equal(after.argmax(1), before[:, order].argmax(1))


def test_order_of_clients_only_orders_the_result():
    features, _ = planted(2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    whole, permuted = (fit_responsibilities(f, 2, None, seed=0) for f in (features, features[order]))
    assert torch.allclose(whole[order], permuted, atol=1e-6)
    again = fit_responsibilities(features[order], 2, whole[order], seed=3)
    assert torch.allclose(again, whole[order], atol=1e-6)


@pytest.mark.parametrize("features", [torch.ones(6, 5), torch.randn(1, 5), torch.randn(2, 5)])
def test_clients_that_cannot_be_told_apart_are_shared_evenly(features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = fit_responsibilities(features, 3, None, seed=0)
    assert torch.allclose(shares, torch.full((len(features), 3), 1 / 3, dtype=torch.float64))


def test_a_floor_too_high_is_refused():
    with pytest.raises(ValueError, match="Received"):
        fit_responsibilities(torch.randn(6, 5), 3, None, floor=0.4)


def test_responsibilities_of_other_clients_are_refused():
    with pytest.raises(ValueError, match="Received: 5"):
        fit_responsibilities(torch.randn(6, 5), 2, torch.ones(5, 2) / 2, seed=0)


@pytest.mark.parametrize("floor", [0.0, 0.02, 0.1])
def test_the_floor_is_the_least_share_and_rows_sum_to_one(floor):
    features, _ = planted(3, 50)
    shares = fit_responsibilities(features, 3, None, floor=floor, seed=0)
    assert float(shares.min()) >= floor - 1e-12 and float(shares.max()) <= 1 - 2 * floor + 1e-12
    assert torch.allclose(shares.sum(1), torch.ones(50, dtype=torch.float64), atol=1e-14)


def test_the_seed_decides_and_features_have_no_unit():
    features, _ = planted(3, spread=3.0)
    one, same = (fit_responsibilities(features, 3, None, seed=4) for _ in range(2))
    assert torch.equal(one, same)
    scaled = fit_responsibilities(1000 * features.double() + 7, 3, None, seed=4)
    assert torch.allclose(one, scaled, atol=1e-5)


@pytest.mark.parametrize(("clients", "most"), [(6, 1), (8, 1), (12, 1), (50, 0)])
def test_auto_finds_no_clusters_in_noise(clients, most):
    """Of eight draws; with a variance per cluster and direction nearly all of few clients would fall into some."""
    draw = torch.Generator().manual_seed(0)
    noise = [torch.randn(clients, 40, generator=draw) for _ in range(8)]
    assert sum(fit_responsibilities(f, "auto", None, seed=0).shape[1] > 1 for f in noise) <= most


def test_auto_finds_the_planted_ones_among_few_clients():
    for seed in range(5):
        for groups, clients in ((2, 4), (2, 6), (2, 8), (3, 9)):
            features, truth = planted(groups, clients, seed=seed)
            shares = fit_responsibilities(features, "auto", None, seed=seed)
            assert adjusted_rand_score(truth, shares.argmax(1).tolist()) == 1.0


def test_auto_takes_one_long_cluster_for_one():
    features = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    features[:, 0] *= 15
    assert fit_responsibilities(features, "auto", None, seed=0).shape[1] == 1


def majority(shares: Tensor, truth: list[int], group: int) -> int:
    return int(shares[torch.tensor(truth) == group].mean(0).argmax())


@pytest.mark.parametrize("before", [2, 4])
def test_when_the_number_of_clusters_changes_those_that_stay_keep_their_places(before):
    features, truth = planted(3)
    sharp = torch.eye(4, dtype=torch.float64)[truth]  # groups 0, 1, 2 were clusters 0, 1, 2; nobody was in 3
    old = {2: sharp[:, [1, 0]] + sharp[:, [2, 2]] / 2, 4: sharp[:, [3, 1, 2, 0]]}[before]
    shares = fit_responsibilities(features, 3, old, seed=0)
    assert adjusted_rand_score(truth, shares.argmax(1).tolist()) == 1.0
    places = [majority(shares, truth, group) for group in range(3)]
    assert places == {2: [1, 0, 2], 4: [2, 0, 1]}[before]


@pytest.mark.parametrize("even", [torch.full((12, 2), 0.5), torch.tensor([[0.7, 0.3]] * 12)])
def test_a_history_that_says_nothing_is_no_start(even):
    features, truth = planted(2)
    shares = fit_responsibilities(features, 2, even.double(), seed=0)
    assert adjusted_rand_score(truth, shares.argmax(1).tolist()) == 1.0


def test_fewer_distinct_clients_than_clusters_is_no_reason_to_warn():
    features = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))[[0, 1] * 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (3, "auto"):
            shares = fit_responsibilities(features, count, None, seed=0)
            assert torch.allclose(shares.sum(1), torch.ones(10, dtype=torch.float64))
            assert shares[0].argmax() != shares[1].argmax()
            assert all(torch.allclose(shares[k], shares[k % 2]) for k in range(10))


def test_a_sketch_depends_on_the_product_alone():
    draw = torch.Generator().manual_seed(0)
    b, a, turn = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((7, 3), (3, 12), (3, 3)))
    left, right = (m.double() for m in sketch_matrices(7, 12, 4, seed=1))
    same = sketch((b @ torch.linalg.inv(turn), turn @ a), left, right)
    assert torch.allclose(sketch((b, a), left, right), same)
    assert torch.allclose(same, (left @ (b @ a) @ right).flatten())
    assert not torch.allclose(same, sketch((b + 0.1, a), left, right))


def test_a_sketch_keeps_the_dtype_and_adds_up_in_float64():
    draw = torch.Generator().manual_seed(0)
    b, a = (torch.randn(*size, generator=draw).bfloat16() for size in ((7, 3), (3, 12)))
    left, right = sketch_matrices(7, 12, 4, seed=1)
    made = sketch((b, a), left, right)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, (left.double() @ b.double() @ a.double() @ right.double()).flatten().bfloat16())
    assert torch.equal(left, sketch_matrices(7, 12, 4, seed=1)[0])
    assert not torch.equal(left, sketch_matrices(7, 12, 4, seed=2)[0])
