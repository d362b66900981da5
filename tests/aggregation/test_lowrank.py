"""Sums in factors against dense float64 matrices, on modules that are not square."""

import pytest
import torch

from fedpeft.aggregation import (
    cut,
    energy_norm,
    padded,
    residual,
    ridge_refined,
    row_energy,
    stack,
    truncate,
)  # fmt: skip

SHAPES = [(7, 12), (12, 7), (9, 9)]  # (d_out, d_in)
shapes = pytest.mark.parametrize("shape", SHAPES)


def drawn(shape, rank, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    b = torch.randn(shape[0], rank, generator=draw, dtype=torch.float64)
    return b.to(dtype), torch.randn(rank, shape[1], generator=draw, dtype=torch.float64).to(dtype)


def several(shape, ranks=(1, 3, 2, 5)):
    return [drawn(shape, rank, i) for i, rank in enumerate(ranks)]


def dense(factors):
    return factors[0].double() @ factors[1].double()


@shapes
def test_a_stack_is_the_weighted_sum(shape):
    weights = [0.5, -1.0, 2.0, 0.25]
    expected = sum(w * dense(f) for w, f in zip(weights, several(shape), strict=True))
    assert torch.allclose(dense(stack(several(shape), weights)), expected)
    assert torch.allclose(dense(stack(several(shape))), sum(map(dense, several(shape))))


@shapes
def test_a_rank_of_zero_adds_nothing(shape):
    nothing = torch.zeros(shape[0], 0, dtype=torch.float64), torch.zeros(0, shape[1], dtype=torch.float64)
    one = drawn(shape, 3, 0)
    assert torch.equal(dense(stack([one, nothing])), dense(one))
    assert truncate(nothing)[1].shape == (0, shape[1])


@shapes
@pytest.mark.parametrize("rank", [1, 2, 6])
def test_truncation_is_the_truncated_svd_also_beyond_the_smaller_dimension(shape, rank):
    whole = stack(several(shape, (5, 8, 6)))  # stacked rank 19
    u, s, v = torch.linalg.svd(dense(whole), full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    b, a = truncate(whole, rank)
    assert a.shape[0] == rank and torch.allclose(b @ a, best)
    assert torch.allclose(b.norm(dim=0), a.norm(dim=1))  # singular values split evenly
    assert torch.equal(*(truncate(whole, rank)[0] for _ in range(2)))


@shapes
def test_without_a_rank_nothing_is_lost_and_nothing_negligible_kept(shape):
    one = drawn(shape, 3, 1)
    again = truncate(stack([one, one, one], [1.0, 1.0, -1.0]))
    assert again[1].shape[0] == 3 and torch.allclose(dense(again), dense(one))


def test_a_rank_above_that_of_the_product_is_filled_with_zeros():
    b, a = truncate(drawn((7, 12), 2, 0), 5)
    assert a.shape == (5, 12) and torch.allclose(b @ a, dense(drawn((7, 12), 2, 0)))


def test_float32_in_float32_out():
    b, a = truncate(stack([drawn((7, 12), 3, i, torch.float32) for i in range(2)]), 4)
    assert b.dtype == a.dtype == torch.float32


def test_padding_and_cutting():
    one = drawn((7, 12), 3, 0)
    assert torch.equal(dense(padded(one, 5)), dense(one)) and padded(one, 5)[1].shape[0] == 5
    assert torch.equal(cut(padded(one, 5), 3)[0], one[0])
    for wrong in (lambda: padded(one, 2), lambda: cut(one, 4), lambda: stack([])):
        with pytest.raises(ValueError, match="Received"):
            wrong()


@shapes
def test_norms_come_from_the_factors(shape):
    one = drawn(shape, 3, 0)
    assert torch.allclose(energy_norm(one), dense(one).norm())
    assert torch.allclose(row_energy(one), dense(one).square().sum(1))


@shapes
def test_the_residual_is_what_the_mean_of_factors_misses(shape):
    pairs, weights = [drawn(shape, 3, i) for i in range(4)], torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    share = weights / weights.sum()
    mean = sum(w * dense(p) for w, p in zip(share, pairs, strict=True))
    b = sum(w * p[0] for w, p in zip(share, pairs, strict=True))
    a = sum(w * p[1] for w, p in zip(share, pairs, strict=True))
    assert torch.allclose(dense(residual(pairs, weights)), mean - b @ a)


@shapes
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_the_refined_b_is_the_dense_least_squares_solution(shape, ridge):
    pairs, weights = [drawn(shape, 3, i) for i in range(4)], torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    share = weights / weights.sum()
    mean = sum(w * dense(p) for w, p in zip(share, pairs, strict=True))
    b = sum(w * p[0] for w, p in zip(share, pairs, strict=True))
    a = sum(w * p[1] for w, p in zip(share, pairs, strict=True))
    # rows of dB solve  min ||[A^T; sqrt(ridge) I] x - [missing; 0]||
    tall = torch.cat([a.mT, ridge**0.5 * torch.eye(3, dtype=torch.float64)])
    missing = torch.cat([(mean - b @ a).mT, torch.zeros(3, shape[0], dtype=torch.float64)])
    change = torch.linalg.lstsq(tall, missing).solution.mT
    refined = ridge_refined(pairs, weights, ridge)
    assert torch.allclose(refined[0], b + change) and torch.allclose(refined[1], a)
