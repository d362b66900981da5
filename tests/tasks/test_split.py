"""Splits within a client, repeated and leaked texts, and fewer rows drawn."""

from collections import Counter

import pytest

from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.items import Item
from fedpeft.tasks.split import drop_leaked, drop_repeated, split_client, subsample

PARTITION = PartitionConfig(kind="iid", clients=1, validation=0.15, test=0.2)


def make_item(key, label=0, text=None):
    return Item(Example(text or key, label), key, "")


def make_items(count, labels=2):
    return [make_item(f"text {i}", i % labels) for i in range(count)]


def split(items, seed=0, client="a", partition=PARTITION, **splits):
    return split_client({"train": items, **splits}, partition, seed, client)


def list_keys(items):
    return [item.key for item in items]


def test_missing_splits_are_taken_from_training_rows_label_by_label():
    items = make_items(200)
    splits = split(items)
    assert {name: len(of_split) for name, of_split in splits.items()} == {"train": 130, "validation": 30, "test": 40}
    assert sorted(key for of_split in splits.values() for key in list_keys(of_split)) == sorted(list_keys(items))
    assert Counter(item.example.label for item in splits["test"]) == {0: 20, 1: 20}
    assert Counter(item.example.label for item in splits["validation"]) == {0: 15, 1: 15}


def test_a_split_that_is_there_stays():
    given = [make_item("given")]
    splits = split(make_items(100), validation=given)
    assert splits["validation"] == given and len(splits["test"]) == 20 and len(splits["train"]) == 80


def test_fractions_hold_in_total_where_every_label_is_rare():
    splits = split(make_items(60, labels=20))  # three rows a label: 0.6 of a row for the test split
    assert {name: len(of_split) for name, of_split in splits.items()} == {"train": 39, "validation": 9, "test": 12}


def test_rows_of_one_text_move_together():
    items = make_items(20) + [make_item(f"text {i}", i % 2, text=f"again {i}") for i in range(20)]
    splits = split(items)
    keys = {name: set(list_keys(of_split)) for name, of_split in splits.items()}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
    assert sum(map(len, splits.values())) == 40


def test_the_draw_is_of_the_seed_and_the_client():
    splits = [split(make_items(100), *key)["test"] for key in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert splits[0] == splits[1] and splits[0] != splits[2] and splits[0] != splits[3]


def test_a_repeated_text_keeps_its_first_row():
    first, second, again = make_item("a", text="first"), make_item("b"), make_item("a", text="again")
    assert drop_repeated([first, second, again]) == [second, first]  # at the place of the last


def test_a_text_stays_in_the_split_that_is_scored():
    clients = {
        "one": {"train": [make_item(k) for k in "abcd"], "test": [make_item("b")]},
        "two": {"train": [make_item("b"), make_item("e")], "validation": [make_item(k) for k in "bcf"]},
    }
    kept, dropped = drop_leaked(clients)
    assert {name: {s: list_keys(items) for s, items in splits.items()} for name, splits in kept.items()} == {
        "one": {"train": ["a", "d"], "test": ["b"]},  # b is in its own test split, c in the other's validation split
        "two": {"train": ["e"], "validation": ["c", "f"]},
    }
    assert dropped == 4


@pytest.mark.parametrize("limit", [None, 50, 60])
def test_a_limit_that_is_not_reached_leaves_all(limit):
    items = make_items(50)
    assert subsample(items, limit, 0, "a train") == items


def test_fewer_rows_are_drawn_in_their_order():
    items = make_items(50)
    draws = [subsample(items, 10, *key) for key in ((0, "a train"), (0, "a train"), (1, "a train"), (0, "a test"))]
    positions = [items.index(item) for item in draws[0]]
    assert len(positions) == 10 and positions == sorted(positions) != list(range(10))
    assert draws[0] == draws[1] and draws[0] != draws[2] and draws[0] != draws[3]
