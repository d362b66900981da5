"""Means weighted by likeness, against the formula written out."""

import pytest
import torch

from fedpeft.aggregation import gram, leave_one_out_similarity_mix


def draw_points(count, width=40, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_weights_are_those_of_the_formula():
    points = draw_points(6)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for k in range(6):
        for j in set(range(6)) - {k}:
            expected[k, j] = float((points[k] - points[j]).square().sum()) ** -4
    expected /= expected.sum(1, keepdim=True)
    assert torch.allclose(leave_one_out_similarity_mix(gram(points)), expected, rtol=1e-9)


def test_equal_distances_give_the_mean_of_the_others():
    mix = leave_one_out_similarity_mix(gram(3.0 * torch.eye(5, dtype=torch.float64)))
    expected = torch.full((5, 5), 0.25, dtype=torch.float64).fill_diagonal_(0)
    assert torch.allclose(mix, expected)


@pytest.mark.parametrize("groups", [2, 3])
def test_planted_groups_hardly_hear_each_other(groups):
    points = draw_points(12)
    points[:, :groups] += 15 * torch.eye(groups, dtype=torch.float64)[torch.arange(12) % groups]
    mix = leave_one_out_similarity_mix(gram(points))
    is_same = torch.arange(12)[:, None] % groups == torch.arange(12) % groups
    assert float((mix * is_same).sum(1).min()) > 0.97


def test_neither_scale_nor_place_matters_and_order_only_permutes():
    points, order = draw_points(7), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    mix = leave_one_out_similarity_mix(gram(points))
    assert torch.allclose(leave_one_out_similarity_mix(gram(1e3 * points + 5)), mix, rtol=1e-6)
    assert torch.allclose(leave_one_out_similarity_mix(gram(points[order])), mix[order][:, order])


def test_identical_clients_hear_each_other_alike():
    points = draw_points(3)[[0, 0, 0, 1, 2]]
    mix = leave_one_out_similarity_mix(gram(points))
    assert torch.allclose(mix[0, 1:3], torch.full((2,), 0.5, dtype=torch.float64))
    same = leave_one_out_similarity_mix(torch.zeros(3, 3))
    assert torch.allclose(same, torch.full((3, 3), 0.5, dtype=torch.float64).fill_diagonal_(0))


@pytest.mark.parametrize("inner", [torch.ones(1, 1), torch.full((3, 3), torch.nan)])
def test_one_client_or_numbers_that_are_not_finite_are_refused(inner):
    with pytest.raises(ValueError, match="two clients or more"):
        leave_one_out_similarity_mix(inner)
