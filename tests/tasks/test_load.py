"""From a source to every client's examples: partitions, splits, repeated texts, limits, and a client that joins."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

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


def test_a_test_split_follows_each_clients_label_fractions(tmp_path):
    write(tmp_path / "train.jsonl", rows(2000))
    write(tmp_path / "test.jsonl", rows(1000, start=5000))
    for client in load(tmp_path, "dirichlet", clients=4, alpha=0.3, min_size=100).clients:
        train, test = (Counter(e.label for e in part) for part in (client.train, client.test))
        assert train[1] / train.total() == pytest.approx(test[1] / test.total(), abs=0.05)


def test_a_text_never_stands_in_two_splits(tmp_path):
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
    ("table", "options", "line"),
    [
        (rows(60), {"kind": "natural"}, "partition.column is missing"),
        (rows(60), {"kind": "natural", "column": "sites"}, "no column 'sites', did you mean 'site'"),
        (rows(60), {"kind": "iid"}, "partition.clients is missing"),
        (rows(60), {"kind": "iid", "clients": 20}, "at most"),
        (rows(60), {"kind": "natural", "column": "site", "clients": 5}, "the data has 3 clients, received 5"),
        ([*rows(60), dict(rows(1)[0], text="x", site="lonely")], {"kind": "natural", "column": "site"}, "'lonely' has"),
        ([*rows(60), dict(rows(1)[0], site="a/b")], {"kind": "natural", "column": "site"}, "a client 'a/b'"),
        (
            [*rows(60), dict(rows(1)[0], site=None)],
            {"kind": "natural", "column": "site"},
            "names no client, received None",
        ),
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
def test_a_mistake_is_one_line(tmp_path, table, options, line):
    with pytest.raises(UserError) as caught:
        load(write(tmp_path / "a.jsonl", table), **options)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_unseen_in_training_is_one_line_with_its_place(tmp_path):
    write(tmp_path / "train.jsonl", rows(60))
    write(tmp_path / "test.jsonl", [*rows(10, start=100), dict(rows(1, start=900)[0], label=7)])
    with pytest.raises(UserError, match=r"test\.jsonl:11: label '7' of a test row never occurs in training"):
        load(tmp_path, "iid", clients=2)


def test_a_named_label_that_no_client_learns_is_one_line(tmp_path):
    write(tmp_path / "train.jsonl", rows(60))
    write(tmp_path / "test.jsonl", [*rows(10, start=100), dict(rows(1, start=900)[0], label=2)])
    task = TaskConfig(source=str(tmp_path), labels=["a", "b", "c"])
    with pytest.raises(UserError, match=r"label 'c' is in its validation or test rows and in nobody's training rows"):
        load_task(task, PartitionConfig(kind="iid", clients=2), 0, Path())


def test_a_label_that_the_task_does_not_name_is_one_line(tmp_path):
    names = ("neg", "pos")
    path = write(tmp_path / "train.jsonl", [dict(row, label=names[row["label"]]) for row in rows(60)])
    task = TaskConfig(source=str(path), labels=["neg"])
    with pytest.raises(UserError) as caught:
        load_task(task, PartitionConfig(kind="iid", clients=2), 0, Path())
    assert str(caught.value).endswith(
        "train.jsonl:2: label 'pos' of a train row is not in task.labels; add it there or leave the row out; "
        "task.labels has: neg"
    )


def test_leaked_texts_are_dropped_before_rows_are_dealt(tmp_path):
    """Dropped after it, a client would be left with fewer rows than others, or than min_size."""
    write(tmp_path / "train.jsonl", rows(80))
    write(tmp_path / "validation.jsonl", rows(8, start=100))
    write(tmp_path / "test.jsonl", rows(40))  # the first half of the training rows
    data = load(tmp_path, "iid", clients=4, min_size=10)
    assert [len(client.train) for client in data.clients] == [10] * 4
    assert not set(texts(data, "train")) & set(texts(data, "test"))
    assert "40 training or validation rows dropped: their text is also in a test or validation split" in data.notes
    with pytest.raises(UserError, match="partition: 40 rows cannot leave 5 clients 10 training rows each"):
        load(tmp_path, "iid", clients=5, min_size=10)


def test_texts_that_leak_by_carving_are_dropped_after_rows_are_dealt(tmp_path):
    """Two sites have the same texts: what one holds out the other may not learn."""
    table = [dict(row, site=site) for site in ("north", "south") for row in rows(60)]
    data = load(write(tmp_path / "a.jsonl", table), "natural", column="site")
    train, validation, test = (set(texts(data, split)) for split in SPLITS)
    assert not train & test and not train & validation and not validation & test
    assert len(train) < 60 and len(test) > 12  # the sites hold out other rows
    assert any("rows dropped: their text is also in" in note for note in data.notes)


def test_a_repeated_text_is_dealt_once(tmp_path):
    table = [*rows(60), *rows(15)]
    dealt = load(write(tmp_path / "a.jsonl", table), "iid", clients=3)
    assert len([t for split in SPLITS for t in texts(dealt, split)]) == 60
    assert "15 rows that repeat a text dropped" in dealt.notes
    natural = load(tmp_path / "a.jsonl", "natural", column="site")  # a site may say a thing twice
    assert len([t for split in SPLITS for t in texts(natural, split)]) == 75


JOINED = PartitionConfig(kind="natural", column="site")


def test_a_joining_client_is_read_and_split_as_others_are(tmp_path):
    table = [{key: row[key] for key in ("text", "label")} for row in rows(60)]  # no column names it
    client = load_client("new", write(tmp_path / "a.jsonl", table), TaskConfig(source="x"), JOINED, ("0", "1"), 0)
    assert (client.id, len(client.train), len(client.validation), len(client.test)) == ("new", 39, 9, 12)
    assert {example.label for example in client.train} == {0, 1}
    limited = JOINED.model_copy(update={"max_train": 5})
    assert len(load_client("new", tmp_path / "a.jsonl", TaskConfig(source="x"), limited, ("0", "1"), 0).train) == 5


def test_a_joining_clients_leaked_texts_are_dropped_before_its_rows_are_split(tmp_path):
    """Dropped after it, as many validation rows would be left as the draw of each seed happens to leave."""
    write(tmp_path / "train.jsonl", [*rows(60), *rows(5)])
    write(tmp_path / "test.jsonl", [*rows(20)])
    for seed in range(6):
        client = load_client("new", tmp_path, TaskConfig(source="x"), JOINED, ("0", "1"), seed)
        train, validation, test = ({e.text for e in getattr(client, split)} for split in SPLITS)
        assert len(client.test) == 20 and not (train | validation) & test and not train & validation
        assert (len(client.train), len(client.validation)) == (34, 6)  # 0.15 of the 40 rows that are left


def test_a_joining_clients_repeated_texts_stand_in_one_split(tmp_path):
    write(tmp_path / "a.jsonl", [*rows(60), *rows(60), *(dict(row, label=1 - row["label"]) for row in rows(30))])
    client = load_client("new", tmp_path / "a.jsonl", TaskConfig(source="x"), JOINED, ("0", "1"), 0)
    train, validation, test = ({e.text for e in getattr(client, split)} for split in SPLITS)
    assert not train & validation and not train & test and not validation & test
    assert len(train | validation | test) == 60


def test_a_joining_clients_labels_are_the_federations(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(60, 3))
    with pytest.raises(UserError, match="label '2' is none that the federation was trained on; it knows: 0, 1"):
        load_client("new", path, TaskConfig(source="x"), JOINED, ("0", "1"), 0)
    swapped = load_client("new", path, TaskConfig(source="x"), JOINED, ("2", "1", "0"), 0)
    assert all(example.label == 2 - int(example.text.split()[-1]) % 3 for example in swapped.train)


def test_a_joining_client_of_too_few_rows_is_told_to_bring_more(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(6))
    with pytest.raises(UserError, match=r"needs 8 \(partition\.min_size\), 1 and 1: give it more rows$"):
        load_client("new", path, TaskConfig(source="x"), JOINED, ("0", "1"), 0)
    fewer = JOINED.model_copy(update={"max_train": 3})  # no other client has been left with more
    assert len(load_client("new", path, TaskConfig(source="x"), fewer, ("0", "1"), 0).train) == 3


needs_data = pytest.mark.skipif("FEDPEFT_DATA" not in os.environ, reason="FEDPEFT_DATA names no folder of data sets")


@needs_data
def test_real_reviews_and_sst2():
    folder = Path(os.environ["FEDPEFT_DATA"])
    reviews = load(folder / "reviews", "natural", column="task", resplit=True)
    assert [c.id for c in reviews.clients] == ["airline", "books", "dvd", "electronics"]
    task = TaskConfig(source=str(folder / "glue/sst2"), text="sentence")
    sst2 = load_task(task, PartitionConfig(kind="dirichlet", clients=8, alpha=0.3, min_size=2000), 0, Path())
    assert sum(len(c.test) for c in sst2.clients) == 1821


def test_labels_that_look_wrong_are_noted_with_their_rows(tmp_path):
    table = [dict(row, label=("pos", "Pos", "neg")[i % 3]) for i, row in enumerate(rows(90))]
    data = load(write(tmp_path / "a.jsonl", table), "iid", clients=2)
    assert "labels that may be one and the same: 'Pos' (30 rows), 'pos' (30 rows); if so write them alike" in data.notes
