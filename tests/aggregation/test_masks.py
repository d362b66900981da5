"""Masks and the overlap mean against the per-row formula, dense and in float64."""

import pytest
import torch

from fedpeft.aggregation import MaskedUpdate, overlap_mean, pack_rows, top_rows, unpack_rows

D_OUT, D_IN = 11, 6


def client(seed, rank=2, density=0.5):
    draw = torch.Generator().manual_seed(seed)
    rows = top_rows(torch.rand(D_OUT, generator=draw), density)
    b = torch.randn(len(rows), rank, generator=draw, dtype=torch.float64)
    return MaskedUpdate(rows, b, torch.randn(rank, D_IN, generator=draw, dtype=torch.float64))


def dense(update):
    full = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    full[update.rows] = update.B @ update.A
    return full


def by_rows(updates, weights, count):
    result = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for d in range(D_OUT):
        own = [(float(w), dense(u)[d]) for w, u in zip(weights, updates, strict=True) if d in u.rows]
        below = len(own) if count else sum(w for w, _ in own)
        if own and below > 0:
            result[d] = sum(w * row for w, row in own) / below
    return result


@pytest.mark.parametrize("rule", ["responsibility", "count"])
def test_the_overlap_mean_is_the_formula_row_by_row(rule):
    updates = [client(i, rank, density) for i, (rank, density) in enumerate([(1, 0.2), (3, 0.5), (2, 0.3)])]
    weights = torch.tensor([0.3, 0.0, 1.7], dtype=torch.float64)
    b, a = overlap_mean(updates, weights, D_OUT, rule)
    assert torch.allclose(b @ a, by_rows(updates, weights, rule == "count"))
    assert (by_rows(updates, weights, False).abs().sum(1) == 0).any()  # some row is nobody's, and stays zero


def test_at_full_density_it_is_the_mean_of_products_and_a_client_of_no_weight_is_not_there():
    updates = [client(i, density=1.0) for i in range(3)]
    weights = torch.tensor([1.0, 2.0, 5.0])
    b, a = overlap_mean(updates, weights, D_OUT, "responsibility")
    assert torch.allclose(b @ a, sum(w * dense(u) for w, u in zip(weights.double() / 8, updates, strict=True)))
    b, a = overlap_mean(updates, torch.tensor([1.0, 2.0, 0.0]), D_OUT, "responsibility")
    rest = overlap_mean(updates[:2], torch.tensor([1.0, 2.0]), D_OUT, "responsibility")
    assert torch.allclose(b @ a, rest[0] @ rest[1])


def test_each_client_counts_and_order_does_not():
    updates = [client(i) for i in range(4)]
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    b, a = overlap_mean(updates, weights, D_OUT, "responsibility")
    other = overlap_mean(updates[::-1], weights.flip(0), D_OUT, "responsibility")
    assert torch.allclose(b @ a, other[0] @ other[1])
    for i in range(4):
        kept = [j for j in range(4) if j != i]
        less = overlap_mean([updates[j] for j in kept], weights[kept], D_OUT, "responsibility")
        assert not torch.allclose(b @ a, less[0] @ less[1])


@pytest.mark.parametrize("d_out", [1, 7, 8, 9, 384])
def test_a_bitmap_comes_back(d_out):
    rows = top_rows(torch.rand(d_out, generator=torch.Generator().manual_seed(d_out)), 0.4)
    bitmap = pack_rows(rows, d_out)
    assert bitmap.dtype == torch.uint8 and len(bitmap) == -(-d_out // 8)
    assert torch.equal(unpack_rows(bitmap, d_out), rows)


def test_a_wrong_bitmap_is_refused():
    with pytest.raises(ValueError, match="past the last"):
        unpack_rows(torch.tensor([255], dtype=torch.uint8), 7)
    for wrong in (torch.zeros(2, dtype=torch.uint8), torch.zeros(1)):
        with pytest.raises(ValueError, match="Received"):
            unpack_rows(wrong, 7)


def test_top_rows_are_those_of_largest_importance():
    importance = torch.tensor([0.1, 5.0, 3.0, 5.0, 0.0])
    assert top_rows(importance, 0.4).tolist() == [1, 3]
    assert top_rows(importance, 0.2).tolist() == [1]  # of equals the first
    assert top_rows(importance, 0.01).tolist() == [1]  # at least one
    assert len(top_rows(torch.rand(10), 0.3)) == 3
    assert len(top_rows(torch.rand(100), 0.07)) == 7  # 0.07 * 100 is above 7
    assert torch.equal(top_rows(torch.zeros(5000), 0.5), torch.arange(2500))  # a long sort of equals, too
    with pytest.raises(ValueError, match="Received"):
        top_rows(importance, 0.0)


@pytest.mark.parametrize("bad", [[7], [-1], [3, 2], [2, 2]])
def test_rows_that_a_bitmap_cannot_give_back_are_refused(bad):
    with pytest.raises(ValueError, match="Received"):
        pack_rows(torch.tensor(bad), 7)


def test_no_rows_make_an_empty_bitmap():
    assert unpack_rows(pack_rows(torch.tensor([], dtype=torch.int64), 11), 11).tolist() == []


@pytest.mark.parametrize("bad", [[1.0, -0.5], [1.0, float("nan")], [1.0, float("inf")], [1.0]])
def test_weights_that_are_none_are_refused_by_the_overlap_mean(bad):
    with pytest.raises(ValueError, match="Received"):
        overlap_mean([client(0), client(1)], torch.tensor(bad), D_OUT, "responsibility")
    with pytest.raises(ValueError, match="at least one client"):
        overlap_mean([], torch.ones(0), D_OUT, "count")


@pytest.mark.parametrize("clusters", [2, 4])  # powers of two, so that dividing by them rounds nothing
def test_equal_responsibilities_are_the_plain_overlap_mean_to_the_bit(clusters):
    updates, weights = [client(i) for i in range(5)], torch.tensor([1.0, 2, 3, 4, 5])
    plain = overlap_mean(updates, weights, D_OUT, "responsibility")
    shared = overlap_mean(updates, weights / clusters, D_OUT, "responsibility")
    assert torch.equal(plain[0], shared[0]) and torch.equal(plain[1], shared[1])
    counted = overlap_mean(updates, weights / clusters, D_OUT, "count")  # the published rule shrinks
    whole = overlap_mean(updates, weights, D_OUT, "count")
    assert torch.equal(clusters * counted[0], whole[0]) and whole[0].any()


def test_one_hot_responsibilities_are_separate_federations():
    updates, weights = [client(i) for i in range(6)], torch.tensor([1.0, 2, 3, 4, 5, 6])
    for j in (0, 1):
        share = torch.tensor([float(i % 2 == j) for i in range(6)])
        b, a = overlap_mean(updates, weights * share, D_OUT, "responsibility")
        alone = overlap_mean(updates[j::2], weights[j::2], D_OUT, "responsibility")
        assert torch.allclose(b @ a, alone[0] @ alone[1], atol=1e-14)


def test_a_cluster_without_responsibility_stays():
    b, a = overlap_mean([client(0), client(1)], torch.zeros(2), D_OUT, "responsibility")
    assert torch.equal(b @ a, torch.zeros(D_OUT, D_IN, dtype=torch.float64))
