"""Means against sums written out."""

import math
from operator import mul

import pytest
import torch

from fedpeft.aggregation import leave_one_out_mean_mix, weighted_mean
from fedpeft.aggregation.mean import BLOCK


def test_weights_are_copies():
    points = torch.randn(3, 4, 5)
    copies = points[[0, 1, 1, 2, 2, 2]]
    assert torch.allclose(weighted_mean(points, torch.tensor([1, 2, 3])), weighted_mean(copies), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_thousand_points_lose_nothing_before_the_last_rounding(dtype):
    points = (1 + torch.rand(1000, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    mean, rounding = weighted_mean(points), torch.finfo(dtype).eps
    assert mean.dtype == dtype
    assert torch.allclose(mean.double(), points.double().mean(0), rtol=0.51 * rounding + 1e-14, atol=0)


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_blocks_of_clients_add_up_to_the_exact_sum(count, dtype):
    draw = torch.Generator().manual_seed(count)
    points = torch.randn(count, 2, 3, generator=draw).to(dtype)
    weights = torch.rand(count, generator=draw, dtype=torch.float64)
    share = (weights / weights.sum()).tolist()
    columns = points.double().flatten(1).T.tolist()
    exact = torch.tensor([math.fsum(map(mul, share, column)) for column in columns], dtype=torch.float64).view(2, 3)
    for given in (points, list(points)):
        mean = weighted_mean(given, weights)
        assert mean.dtype == dtype
        if dtype == torch.float64:
            torch.testing.assert_close(mean, exact, rtol=0, atol=1e-14)
        else:
            assert torch.equal(mean, exact.to(dtype))


def test_each_row_is_the_mean_of_the_others():
    weights, points = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.randn(4, 6, dtype=torch.float64)
    mix = leave_one_out_mean_mix(weights)
    for k in range(4):
        others = [j for j in range(4) if j != k]
        expected = (weights[others, None] * points[others]).sum(0) / weights[others].sum()
        assert torch.allclose(mix[k] @ points, expected)
    assert torch.equal(mix.diagonal(), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("weights", [[3.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [1.0] * 3])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="Received"):
        weighted_mean(torch.randn(2, 3), torch.tensor(weights))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0, 0.0]])
def test_all_but_one_needs_another(weights):
    with pytest.raises(ValueError, match="at least two clients with weight"):
        leave_one_out_mean_mix(torch.tensor(weights))
