"""Row positions by client: every row once, everyone served, and the shape that each kind promises."""

from collections import Counter

import numpy as np
import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.partition import (
    compute_label_fractions,
    make_generator,
    partition_by_fractions,
    partition_examples,
)

KINDS = ("iid", "dirichlet", "shards", "quantity", "mixed")
LABELS = [i % 4 for i in range(400)]


def partition(kind, clients=5, labels=LABELS, held_out=0.0, seed=0, **keys):
    return partition_examples(labels, clients, PartitionConfig(kind=kind, **keys), held_out, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_goes_to_one_client_and_everyone_has_enough(kind):
    parts = partition(kind, min_size=20)
    assert sorted(row for part in parts for row in part) == list(range(400))
    assert min(map(len, parts)) >= 20
    assert partition(kind, min_size=20) == parts != partition(kind, min_size=20, seed=1)


def test_draws_are_of_the_seed_and_the_purpose():
    draws = [make_generator(*key).integers(1 << 40) for key in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))]
    assert draws[0] == draws[1] and len(set(draws)) == 3


def test_equal_parts_are_equal_and_shuffled():
    parts = partition("iid")
    assert [len(part) for part in parts] == [80] * 5
    assert all(part != sorted(part) for part in parts)


def test_small_alpha_makes_unlike_label_fractions():
    spreads = []
    for alpha in (0.1, 1000):
        counts = [Counter(LABELS[row] for row in part) for part in partition("dirichlet", alpha=alpha)]
        spreads.append(max(count[0] / count.total() for count in counts) - min(c[0] / c.total() for c in counts))
    assert spreads[0] > 0.4 > 0.1 > spreads[1]


def test_small_alpha_makes_unlike_sizes_of_like_label_fractions():
    parts = partition("quantity", alpha=0.3, clients=4)
    sizes = [len(part) for part in parts]
    assert max(sizes) > 3 * min(sizes)
    counts = Counter(LABELS[row] for row in max(parts, key=len))
    assert all(count / counts.total() == pytest.approx(0.25, abs=0.1) for count in counts.values())


@pytest.mark.parametrize("shards", [1, 2])
def test_shards_hold_as_many_labels_as_there_are_pieces(shards):
    parts = partition("shards", clients=4, shards_per_client=shards)  # pieces end where labels end
    assert all(len({LABELS[row] for row in part}) <= shards for part in parts)
    assert {len(part) for part in parts} == {100}


def test_whoever_has_too_few_rows_gets_some_of_the_largest():
    parts = partition("dirichlet", clients=20, alpha=0.05, min_size=20)
    assert [len(part) for part in parts] == [20] * 20  # there are no more: all are topped up


@pytest.mark.parametrize(
    ("rows", "held_out", "clients", "line"),
    [
        # (8 + 2) / (1 - 0.35) = 15.4: what is carved out is on top of min_size, and either split may round up by one
        (31, 0.35, 2, "31 rows cannot leave 2 clients 8 training rows each (each needs 16 before its splits are"),
        (31, 0.35, 2, "give more rows or ask for at most 1 clients or lower min_size"),
        (15, 0.0, 2, "15 rows cannot leave 2 clients 8 training rows each (each needs 8 before"),
        (7, 0.0, 1, "carved out); give more rows or lower min_size"),
    ],
)
def test_too_few_rows_are_one_line(rows, held_out, clients, line):
    with pytest.raises(UserError) as caught:
        partition("iid", clients, [0] * rows, held_out)
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert len(partition("iid", clients, [0] * (rows + 1), held_out)) == clients


def test_the_smallest_min_size_is_not_lowered():
    with pytest.raises(UserError, match=r"carved out\); give more rows$"):
        partition("iid", 1, [0], min_size=2)


def test_label_fractions_sum_to_one_and_are_equal_where_a_label_is_missing():
    fractions = compute_label_fractions([[0, 1, 2], [3]], [0, 0, 1, 1], 3)
    assert fractions.tolist() == [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]


def test_another_split_follows_the_label_fractions():
    fractions = np.array([[0.75, 0.25], [0.0, 1.0]])
    labels = [0] * 40 + [1] * 20
    parts = partition_by_fractions(labels, fractions, 0, "test")
    assert sorted(row for part in parts for row in part) == list(range(60))
    assert [Counter(labels[row] for row in part) for part in parts] == [{0: 30}, {0: 10, 1: 20}]
    assert parts == partition_by_fractions(labels, fractions, 0, "test")
    assert parts != partition_by_fractions(labels, fractions, 0, "validation")


def test_every_client_has_a_row_of_another_split():
    fractions = np.array([[1.0, 0.0, 0.0]])
    assert sorted(map(len, partition_by_fractions([0] * 9, fractions, 0, "test"))) == [1, 1, 7]
    with pytest.raises(UserError, match="2 test rows cannot serve 3 clients; ask for fewer clients"):
        partition_by_fractions([0] * 2, fractions, 0, "test")
