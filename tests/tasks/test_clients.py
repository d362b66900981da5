"""From items by split to every client's own."""

from collections import Counter

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.clients import assign_items, make_client, require_enough
from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.items import Item


def make_items(count, start=0, clients="xyz"):
    return [
        Item(Example(f"text {i}", i % 2), f"text {i}", clients[i % len(clients)]) for i in range(start, start + count)
    ]


def assign(items, kind, seed=0, **keys):
    return assign_items(items, PartitionConfig(kind=kind, **keys), 2, seed)


def count_items(clients):
    return {name: {split: len(items) for split, items in splits.items()} for name, splits in clients.items()}


@pytest.mark.parametrize("kind", ["natural", "distinct"])
def test_a_column_decides_whose_a_row_is(kind):
    items = {"train": make_items(60), "test": make_items(9, 100)}
    clients = assign(items, kind, column="site", validation=0.25)
    assert count_items(clients) == {name: {"train": 15, "validation": 5, "test": 3} for name in "xyz"}
    for name, splits in clients.items():
        assert {item.client for of_split in splits.values() for item in of_split} == {name}


def test_a_client_of_test_rows_alone_is_one_too():
    items = {"train": make_items(10, clients="x"), "test": make_items(2, 100, clients="xy")}
    assert set(assign(items, "natural", column="site")) == {"x", "y"}


def test_a_number_of_clients_that_is_not_the_columns_is_one_line():
    assert len(assign({"train": make_items(60)}, "distinct", clients=3)) == 3
    with pytest.raises(UserError, match=r"partition\.clients: the data has 3 clients, received 5; leave it out"):
        assign({"train": make_items(60)}, "distinct", clients=5)


def test_dealt_clients_are_numbered_so_that_names_sort():
    assert list(assign({"train": make_items(200)}, "iid", clients=11))[:2] == ["client-00", "client-01"]
    assert list(assign({"train": make_items(200)}, "iid", clients=10))[:2] == ["client-0", "client-1"]


def test_mixed_has_as_many_clients_as_tasks_and_others_must_say():
    assert len(assign({"train": make_items(90)}, "mixed")) == 3
    assert len(assign({"train": make_items(90)}, "mixed", clients=2)) == 2
    with pytest.raises(UserError, match=r"partition\.clients is missing: iid needs to know how many"):
        assign({"train": make_items(90)}, "iid")


def test_min_size_is_left_after_splits_are_carved_out():
    clients = assign({"train": make_items(200)}, "quantity", clients=4, alpha=0.1, min_size=10)
    assert all(len(splits["train"]) >= 10 and splits["validation"] and splits["test"] for splits in clients.values())


def test_rows_of_another_split_follow_each_clients_label_fractions():
    items = {"train": make_items(400), "validation": make_items(200, 1000), "test": make_items(200, 2000)}
    for splits in assign(items, "dirichlet", clients=3, alpha=0.3, min_size=40).values():
        fractions = []
        for of_split in splits.values():
            labels = Counter(item.example.label for item in of_split)
            fractions.append(labels[1] / labels.total())
        assert fractions == pytest.approx([fractions[0]] * 3, abs=0.05)


def test_a_client_has_at_most_what_the_limits_allow():
    splits = {"train": make_items(30), "validation": make_items(9, 100), "test": make_items(8, 200)}
    whole = make_client("a", splits, PartitionConfig(kind="iid"), 0)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (30, 9, 8)
    limited = PartitionConfig(kind="iid", max_train=5, max_validation=4, max_test=3)
    less = make_client("a", splits, limited, 0)
    assert (less.id, len(less.train), len(less.validation), len(less.test)) == ("a", 5, 4, 3)
    assert make_client("b", splits, limited, 0).train != less.train != make_client("a", splits, limited, 1).train


def require(train, validation, test, least, **options):
    splits = {"train": make_items(train), "validation": make_items(validation), "test": make_items(test)}
    require_enough("lonely", splits, least, **options)


@pytest.mark.parametrize(
    ("sizes", "least", "lower"),
    [
        ((1, 1, 1), 2, False),
        ((1, 1, 1), 8, False),  # min_size may not go below 2: lowering it helps only a client that has 2 rows left
        ((7, 1, 1), 8, True),
        ((9, 0, 1), 8, False),
        ((9, 1, 0), 8, False),
    ],
)
def test_a_client_of_too_few_rows_is_told_what_can_be_done(sizes, least, lower):
    with pytest.raises(UserError) as caught:
        require(*sizes, least)
    message = str(caught.value)
    assert message.startswith("client 'lonely' has {} training, {} validation and {} test rows".format(*sizes))
    assert ("lower min_size" in message) is lower and "\n" not in message
    assert "give it more rows" in message and "leave it out or choose another partition.kind" in message


def test_a_joining_client_can_only_bring_more():
    require(8, 1, 1, 8, joins=True)
    with pytest.raises(UserError, match=r"needs 8 \(partition\.min_size\), 1 and 1: give it more rows$"):
        require(7, 1, 1, 8, joins=True)


@pytest.mark.parametrize("names", [("North", "north"), ("é", "e\u0301"), ("STRASSE", "straße")])
def test_clients_that_differ_by_case_or_accents_only_are_one_line(names):
    items = [item for name in names for item in make_items(20, clients=[name])]
    with pytest.raises(UserError, match=r"^partition\.column: clients '.*' and '.*' differ by case or accents only;"):
        assign({"train": items}, "natural", column="site")
