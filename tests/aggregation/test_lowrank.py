"""Sums in factors against dense float64 matrices, on modules that are not square."""

import pytest
import torch

from fedpeft.aggregation import (
    concat_factors,
    frobenius_norm,
    pad_rank,
    residual,
    ridge_corrected_mean,
    row_energy,
    take_rank,
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
    assert torch.allclose(dense(concat_factors(several(shape), weights)), expected)
    assert torch.allclose(dense(concat_factors(several(shape))), sum(map(dense, several(shape))))


@shapes
def test_a_rank_of_zero_adds_nothing(shape):
    nothing = torch.zeros(shape[0], 0, dtype=torch.float64), torch.zeros(0, shape[1], dtype=torch.float64)
    one = drawn(shape, 3, 0)
    assert torch.equal(dense(concat_factors([one, nothing])), dense(one))
    assert truncate(nothing)[1].shape == (0, shape[1])


@shapes
@pytest.mark.parametrize("rank", [1, 2, 6])
def test_truncation_is_the_truncated_svd_also_beyond_the_smaller_dimension(shape, rank):
    whole = concat_factors(several(shape, (5, 8, 6)))  # stacked rank 19
    u, s, v = torch.linalg.svd(dense(whole), full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    b, a = truncate(whole, rank)
    assert a.shape[0] == rank and torch.allclose(b @ a, best)
    assert torch.allclose(b.norm(dim=0), a.norm(dim=1))  # singular values split evenly
    assert torch.equal(*(truncate(whole, rank)[0] for _ in range(2)))


@shapes
def test_without_a_rank_nothing_is_lost_and_nothing_negligible_kept(shape):
    one = drawn(shape, 3, 1)
    again = truncate(concat_factors([one, one, one], [1.0, 1.0, -1.0]))
    assert again[1].shape[0] == 3 and torch.allclose(dense(again), dense(one))


def test_a_rank_above_that_of_the_product_is_filled_with_zeros():
    b, a = truncate(drawn((7, 12), 2, 0), 5)
    assert a.shape == (5, 12) and torch.allclose(b @ a, dense(drawn((7, 12), 2, 0)))
    assert torch.equal(b[:, 2:], torch.zeros(7, 3, dtype=torch.float64))
    assert torch.equal(a[2:], torch.zeros(3, 12, dtype=torch.float64))
    assert truncate(drawn((7, 12), 2, 0), 20)[0].shape == (7, 20)  # larger than the module
    assert truncate(drawn((7, 12), 2, 0), 0)[0].shape == (7, 0)


@shapes
def test_terms_that_cancel_leave_nothing(shape):
    b, a = drawn(shape, 4, 0)
    turn = drawn((4, 4), 4, 1)[0]
    nothing = concat_factors([(b, a), (b @ turn, torch.linalg.solve(turn, a))], [1.0, -1.0])
    assert truncate(nothing)[1].shape[0] == 0
    assert not truncate(nothing, 3)[0].any()


def test_a_small_direction_is_not_taken_for_rounding():
    b, a = drawn((12, 7), 2, 0)
    small = torch.tensor([1.0, 1e-10], dtype=torch.float64)
    kept = truncate((b * small, a))
    assert kept[1].shape[0] == 2
    uneven = truncate((b * small, a / small[:, None]))  # one product in factors of unlike size: nothing is small
    assert uneven[1].shape[0] == 2 and torch.allclose(dense(uneven), b @ a)


@shapes
def test_signs_do_not_depend_on_how_the_product_is_factored(shape):
    b, a = drawn(shape, 4, 0)
    turn = drawn((4, 4), 4, 1)[0]
    one, other = truncate((b, a), 3), truncate((-b @ turn, -torch.linalg.solve(turn, a)), 3)
    assert torch.allclose(one[0], other[0]) and torch.allclose(one[1], other[1])
    assert (one[0].gather(0, one[0].abs().argmax(0, keepdim=True)) > 0).all()


def test_float32_in_float32_out():
    b, a = truncate(concat_factors([drawn((7, 12), 3, i, torch.float32) for i in range(2)]), 4)
    assert b.dtype == a.dtype == torch.float32


def test_padding_and_cutting():
    one = drawn((7, 12), 3, 0)
    assert torch.equal(dense(pad_rank(one, 5)), dense(one)) and pad_rank(one, 5)[1].shape[0] == 5
    assert torch.equal(take_rank(pad_rank(one, 5), 3)[0], one[0])
    other = drawn((7, 12), 2, 0)
    for wrong in (
        lambda: pad_rank(one, 2),
        lambda: take_rank(one, 4),
        lambda: concat_factors([]),
        lambda: concat_factors([one, drawn((12, 7), 3, 0)]),
        lambda: truncate(one, -1),
        lambda: residual([one, other]),
        lambda: residual([]),
        lambda: ridge_corrected_mean([one, other], None, 1.0),
        lambda: ridge_corrected_mean([one], None, 0.0),
    ):
        with pytest.raises(ValueError, match="Received"):
            wrong()


@shapes
def test_norms_come_from_the_factors(shape):
    one = drawn(shape, 3, 0)
    assert torch.allclose(frobenius_norm(one), dense(one).norm())
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
    refined = ridge_corrected_mean(pairs, weights, ridge)
    assert torch.allclose(refined[0], b + change) and torch.allclose(refined[1], a)


@shapes
@pytest.mark.parametrize("weights", [[0.0, 1, 2, 3], [1.0, 0, 0, 2], [0.0, 0, 5, 0]])
def test_clients_without_weight_are_not_in_the_residual(shape, weights):
    pairs = [drawn(shape, 3, i) for i in range(4)]
    some = [(w, p) for w, p in zip(weights, pairs, strict=True) if w]
    with_weight = residual([p for _, p in some], torch.tensor([w for w, _ in some]))
    assert torch.allclose(dense(residual(pairs, torch.tensor(weights))), dense(with_weight))


def test_the_residual_takes_a_block_less_than_there_are_clients():
    pairs = [drawn((12, 7), 2, i) for i in range(3)]
    b, a = residual(pairs)
    assert b.shape == (12, 4) and a.shape == (4, 7)
    assert residual(pairs[:1])[1].shape == (0, 7)  # one client's factors are their own mean
    assert not dense(residual([pairs[0]] * 3)).any()


def aggregates(pairs, weights):
    """What each rule makes of clients, as products: factors may be turned."""
    whole = concat_factors(pairs, weights)
    return {
        "stack": dense(whole),
        "truncate": dense(truncate(whole, 2)),
        "residual": dense(residual(pairs, weights)),
        "ridge_refined": dense(ridge_corrected_mean(pairs, weights, 0.1)),
    }


@shapes
def test_each_client_changes_the_result_and_order_does_not(shape):
    pairs, weights = [drawn(shape, 3, i) for i in range(5)], torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    result = aggregates(pairs, weights)
    turned = aggregates(pairs[::-1], weights.flip(0))
    assert all(torch.allclose(result[rule], turned[rule]) for rule in result)
    for i in range(5):
        kept = [k for k in range(5) if k != i]
        less = aggregates([pairs[k] for k in kept], weights[kept])
        assert not any(torch.allclose(result[rule], less[rule], atol=1e-3) for rule in result)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lower_precision_costs_the_last_rounding_only(dtype):
    pairs = [drawn((7, 12), 3, i, dtype) for i in range(4)]
    wide = [(b.double(), a.double()) for b, a in pairs]
    exact, rounded = aggregates(wide, torch.ones(4)), aggregates(pairs, torch.ones(4))
    assert (
        residual(pairs)[0].dtype
        == ridge_corrected_mean(pairs, None, 0.1)[0].dtype
        == concat_factors(pairs)[1].dtype
        == dtype
    )
    for rule in exact:
        assert (exact[rule] - rounded[rule]).norm() < 4 * torch.finfo(dtype).eps * exact[rule].norm()
