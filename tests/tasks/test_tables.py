"""Rows by split with every column that an experiment needs."""

import json
from pathlib import Path

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.tables import get_client_column, read_tables

IID = PartitionConfig(kind="iid", clients=2)
ROW = {"text": "a", "label": 0, "site": "north"}


@pytest.fixture
def write(tmp_path):
    """write(train=[row, ...], test=...) -> the folder of these splits."""

    def write_splits(**splits):
        for split, rows in splits.items():
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path)

    return write_splits


def read(source, partition=IID, column=None, **keys):
    return read_tables(TaskConfig(source=source, **keys), source, partition, column, Path())[0]


def test_splits_stay_apart_unless_they_are_divided_anew(write):
    source = write(train=[ROW, ROW], test=[ROW])
    assert {split: len(rows) for split, rows in read(source).items()} == {"train": 2, "test": 1}
    anew = PartitionConfig(kind="iid", clients=2, resplit=True)
    assert {split: len(rows) for split, rows in read(source, anew).items()} == {"train": 3}


@pytest.mark.parametrize(
    ("keys", "column", "line"),
    [
        ({}, "sites", r"train\.jsonl:2: no column 'sites', did you mean 'site'\?; columns: task, text, label, site"),
        ({"text": "review"}, None, "no column 'review'; columns"),
        ({"text_pair": "other"}, None, "no column 'other'"),
        ({"label": "stars"}, None, "no column 'stars'"),
        ({"kind": "regression", "label": "stars"}, None, "no column 'stars'"),
        ({"kind": "multiple_choice", "answer": "gold"}, None, "no column 'gold'"),
        ({"kind": "generation", "answer": "label", "target": "rationale"}, None, "no column 'rationale'"),
        ({"kind": "generation", "answer": "gold", "target": "label"}, None, "no column 'gold'"),
    ],
)
def test_a_column_that_is_missing_is_one_line(write, keys, column, line):
    complete = ROW | dict.fromkeys(("sites", "review", "other", "stars", "gold", "rationale"), 0)
    source = write(train=[complete, ROW])
    with pytest.raises(UserError, match=line) as caught:
        read(source, column=column, **keys)
    assert "\n" not in str(caught.value) and "@where" not in str(caught.value)


def test_a_column_may_be_missing_where_it_is_not_needed(write):
    assert read(write(train=[{"text": "a", "answer": "b", "output": "c"}]), kind="generation")


def test_a_source_without_training_rows_is_one_line(write):
    with pytest.raises(UserError, match="has no training split, only test"):
        read(write(test=[ROW]))


def test_the_column_of_clients_is_the_partitions():
    assert get_client_column(PartitionConfig(kind="natural", column="site")) == "site"
    assert [get_client_column(PartitionConfig(kind=kind)) for kind in ("distinct", "mixed", "iid")] == [
        "task",
        "task",
        None,
    ]
    with pytest.raises(UserError, match=r"partition\.column is missing: natural needs the column"):
        get_client_column(PartitionConfig(kind="natural"))


def test_the_tasks_limit_holds(write):
    source = write(train=[ROW | {"text": "x" * 2**20}])
    assert read(source, max_mib=2)
    with pytest.raises(UserError, match=r"its rows would take more than 1 MiB"):
        read(source, max_mib=1)
