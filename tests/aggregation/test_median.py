"""Geometric medians against plain Weiszfeld in float64, and against what a median promises."""

import pytest
import torch
from torch import Tensor

from fedpeft.aggregation import (
    combine,
    geometric_median,
    geometric_median_mix,
    gram,
    leave_one_out_mean_mix,
    leave_one_out_median_mix,
    leave_one_out_medians,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(clients: int, d: int, seed: int = 0) -> Tensor:
    """Points of which some lie far out, so that the median is not the mean."""
    return draw(clients, d, seed=seed) * torch.logspace(-1, 1, clients, dtype=torch.float64)[:, None] + draw(d, seed=99)


def weiszfeld(points: Tensor, weights: Tensor | None = None, steps: int = 3000) -> Tensor:
    """The geometric median (d,) of (clients, d) as a textbook has it: no Gram matrix, no care for special cases."""
    points = points.double()
    weights = torch.ones(len(points), dtype=torch.float64) if weights is None else weights.double()
    z = weights @ points / weights.sum()
    for _ in range(steps):
        pull = weights / (points - z).norm(dim=1).clamp_min(1e-14)
        z = pull @ points / pull.sum()
    return z


def cost(points: Tensor, z: Tensor, weights: Tensor | float = 1.0) -> float:
    return float((weights * (points - z).norm(dim=1)).sum())


def without(points: Tensor, k: int) -> Tensor:
    return torch.cat([points[:k], points[k + 1 :]])


@pytest.mark.parametrize(("clients", "d"), [(5, 3), (8, 40), (20, 7)])
def test_one_gram_matrix_gives_every_independent_median(clients, d):
    points, weights = uneven(clients, d), draw(clients, seed=1).abs()
    whole, plain, weighted = (
        geometric_median(points),
        leave_one_out_medians(points),
        leave_one_out_medians(points, weights),
    )
    assert torch.allclose(whole, weiszfeld(points), atol=1e-7)
    for k in range(clients):
        assert torch.allclose(plain[k], weiszfeld(without(points, k)), atol=1e-7)
        assert torch.allclose(weighted[k], weiszfeld(without(points, k), without(weights, k)), atol=1e-7)


def test_rows_are_convex_and_leave_their_own_client_out():
    mix = leave_one_out_median_mix(gram(uneven(9, 30)))
    assert torch.allclose(mix.sum(1), torch.ones(9, dtype=torch.float64), atol=1e-12)
    assert (mix >= 0).all()
    assert torch.equal(mix.diagonal(), torch.zeros(9, dtype=torch.float64))


def test_with_three_clients_every_leave_one_out_median_is_the_mean():
    for seed in range(20):
        points = uneven(3, 5, seed)
        mean = leave_one_out_mean_mix(torch.ones(3)) @ points
        assert torch.allclose(leave_one_out_medians(points), mean, atol=1e-12)


def test_with_two_clients_each_receives_the_other():
    points = draw(2, 4)
    assert torch.allclose(leave_one_out_medians(points), points.flip(0), atol=1e-12)


def test_the_heavier_of_two_points_is_their_median():
    points = draw(2, 4)
    assert torch.equal(geometric_median(points, torch.tensor([1.0, 1.01])), points[1])


def test_a_median_on_a_point_is_found_exactly():
    """A point is the median when the others' unit pulls sum to at most its weight: here the fifth, in two steps."""
    points = torch.tensor([[1.0, 0], [-2, 0], [0, 3], [0, -4], [0, 0]]) + 7.3
    mix = geometric_median_mix(gram(points), iterations=2)
    assert torch.equal(mix, torch.tensor([0, 0, 0, 0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(10))
def test_no_point_is_better_than_the_median(seed):
    """Seven points in a plane: often the median is one of them, where plain Weiszfeld crawls."""
    points = draw(7, 2, seed=seed)
    best = cost(points, geometric_median(points))
    assert best <= min(cost(points, p) for p in [*points, weiszfeld(points)]) + 1e-12


def test_a_mean_that_is_a_point_holds_nothing_up():
    direction = torch.nn.functional.normalize(draw(6), dim=0)
    points = torch.tensor([0, 1, 2, 4, 13], dtype=torch.float64)[:, None] * direction  # mean 4, median 2
    assert torch.allclose(geometric_median(points), 2 * direction, atol=1e-9)


def test_points_that_coincide():
    same = draw(1, 5).expand(4, 5)
    assert torch.equal(geometric_median(same), same[0])
    assert torch.allclose(leave_one_out_medians(same), same)
    most = torch.cat([same[:3], 100 * draw(2, 5, seed=1)])  # three of five in one place outweigh any two
    assert torch.allclose(geometric_median(most), same[0], atol=1e-12)
    assert torch.equal(leave_one_out_median_mix(gram(most)).diagonal(), torch.zeros(5, dtype=torch.float64))


def test_two_clients_that_coincide_hold_nothing_up():
    """Their distance, computed from G, is rounding: taken for a real one its pull would outweigh all the others'."""
    for seed in range(60):
        points = 3 + draw(5, 1001, seed=seed) * draw(5, 1, seed=seed + 100).abs()
        points[4] = points[0]
        assert cost(points, geometric_median(points)) <= cost(points, weiszfeld(points)) * (1 + 1e-6)


@pytest.mark.parametrize("bad", [1, 2, 4])
@pytest.mark.parametrize("far", [1e2, 1e6, 1e12, 1e20])
def test_fewer_than_half_bad_points_move_it_by_a_bounded_amount(bad, far):
    """Let b of n be bad, the good within a radius of their own median c, and D = ||z - c||. The triangle inequality in
    cost(z) <= cost(c) gives (n - b) (D - radius) - b D <= (n - b) radius, so D <= 2 radius (n - b) / (n - 2 b)."""
    points, direction = draw(9, 50), draw(50, seed=5)
    centre = geometric_median(points[bad:])
    radius = float((points[bad:] - centre).norm(dim=1).max())
    points[:bad] += far * direction
    assert float((geometric_median(points) - centre).norm()) < 2 * radius * (9 - bad) / (9 - 2 * bad)
    assert float((points.mean(0) - centre).norm()) > 0.1 * far  # the mean follows them all the way


def test_how_far_the_bad_points_are_makes_no_difference():
    medians = []
    for far in (1e8, 1e12, 1e20):
        points = draw(9, 50)
        points[:4] = far * draw(50, seed=5)
        medians.append(geometric_median(points))
    assert torch.allclose(medians[0], medians[1], atol=1e-5)
    assert torch.allclose(medians[1], medians[2], atol=1e-5)


def test_far_outliers_leave_the_honest_digits():
    points = draw(7, 10)
    points[0] += 1e7
    assert torch.allclose(geometric_median(points), weiszfeld(points), atol=1e-6)
    points[0] += 1e15
    others = leave_one_out_medians(points)
    assert torch.allclose(others[0], weiszfeld(points[1:]), atol=1e-7)


def test_each_client_moves_the_median():
    points = uneven(6, 10)
    before, alone = geometric_median(points), leave_one_out_medians(points)
    for k in range(6):
        moved = points.clone()
        moved[k] += 1
        assert (geometric_median(moved) - before).norm() > 1e-3
        after = leave_one_out_medians(moved)
        assert torch.allclose(after[k], alone[k], atol=1e-9)  # its own leave-one-out median does not know it
        assert all((after[j] - alone[j]).norm() > 1e-3 for j in range(6) if j != k)


def test_order_does_not_matter():
    points, weights, order = uneven(7, 12), draw(7, seed=3).abs(), torch.tensor([3, 0, 6, 5, 1, 2, 4])
    assert torch.allclose(geometric_median(points[order], weights[order]), geometric_median(points, weights), atol=1e-8)
    turned = leave_one_out_medians(points[order], weights[order])
    assert torch.allclose(turned, leave_one_out_medians(points, weights)[order], atol=1e-8)


def test_weights_are_copies():
    points = uneven(4, 6)
    copies = points[[0, 1, 1, 2, 2, 2, 3]]
    assert torch.allclose(geometric_median(points, torch.tensor([1, 2, 3, 1])), geometric_median(copies), atol=1e-8)
    without_it = leave_one_out_medians(points, torch.tensor([1, 0, 1, 1]))
    assert torch.allclose(without_it[[0, 2, 3]], leave_one_out_medians(points[[0, 2, 3]]), atol=1e-8)


def test_moving_turning_and_scaling_the_points_does_so_to_the_median():
    points, turn, move = uneven(6, 5), torch.linalg.qr(draw(5, 5, seed=8)).Q, 1e4 * draw(5, seed=9)
    expected = 1e3 * geometric_median(points) @ turn + move
    assert torch.allclose(geometric_median(1e3 * points @ turn + move), expected, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_low_precision_points(dtype, tolerance):
    points = uneven(6, 64).to(dtype)
    medians = leave_one_out_medians(points)
    assert medians.dtype == dtype
    for k in range(6):
        expected = weiszfeld(without(points, k))
        assert torch.allclose(medians[k].double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 7, 40, 41, 1000])
def test_chunks_and_sequences_change_nothing(chunk):
    points, mix = uneven(5, 41), draw(3, 5, seed=2)
    centred = points - points[points.norm(dim=1).argsort()[2]]
    assert torch.allclose(gram(points, chunk), centred @ centred.T, atol=1e-9)
    assert torch.allclose(gram(list(points), chunk), centred @ centred.T, atol=1e-9)
    assert torch.allclose(combine(mix, list(points), chunk), mix @ points, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    points = draw(4, 3)
    points[2, 1] = bad
    with pytest.raises(ValueError, match=r"finite.*Received"):
        geometric_median(points)


def test_points_of_different_shapes_are_refused():
    for points in ([torch.zeros(3), torch.zeros(4)], [torch.zeros(2, 3), torch.zeros(2, 3)], []):
        with pytest.raises(ValueError, match=r"vectors of one length. Received"):
            gram(points)


@pytest.mark.parametrize("weights", [None, [1.0], [1.0, 0.0, 0.0]])
def test_leave_one_out_needs_another_client(weights):
    points = draw(1 if weights is None else len(weights), 3)
    with pytest.raises(ValueError, match="at least two clients with weight"):
        leave_one_out_medians(points, None if weights is None else torch.tensor(weights))
