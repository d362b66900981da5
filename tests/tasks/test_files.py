"""Every format of a file gives the same rows; what cannot be read is one line that says where."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.files import read_file

ROWS = [{"text": "one, “two”", "label": "a"}, {"text": "three", "label": "b"}]


def drop_places(table):
    return [{k: v for k, v in row.items() if not k.startswith("@")} for row in table]


def write_jsonl(path):
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")


def write_jsonl_gz(path):
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()))


def write_csv(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)


def write_json_array(path):
    path.write_text(json.dumps(ROWS), encoding="utf-8")


WRITERS = {
    "a.json": write_json_array,
    "a.jsonl": write_jsonl,
    "a.jsonl.gz": write_jsonl_gz,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = read_file(tmp_path / name)
    assert drop_places(rows) == ROWS
    assert all("a." in row["@where"] for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2: expected an object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n', "a.jsonl:2: not UTF-8 (byte 0xe9)"),
        ("a.csv", b"text,label\nx,1\ncaf\xe9,0\n", "a.csv:3: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.json", b'[{"text": "x"}, 3]', "expected objects of columns, received '3'"),
        ("a.json", b"[1", "a.json: not valid JSON"),
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
def test_an_unreadable_file_is_one_line(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / name)
    assert line in str(caught.value) and "\n" not in str(caught.value)


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
    rows = read_file(tmp_path / "a.csv")
    assert [(row["text"], row["label"]) for row in rows] == [("one, two", "a"), ("three", "b")]


def test_a_csv_record_ends_at_its_line_only(tmp_path):
    text = "one\u2028two\x85three\x0bfour"  # breaks to Unicode, not to CSV
    (tmp_path / "a.csv").write_text(f'text,label\n{text},a\n"five\nsix",b\n', encoding="utf-8")
    rows = read_file(tmp_path / "a.csv")
    assert [row["text"] for row in rows] == [text, "five\nsix"]
    assert [row["@where"].rsplit(":", 1)[1] for row in rows] == ["2", "4"]


def test_a_place_names_file_and_line(tmp_path):
    places = {}
    for name in WRITERS:
        WRITERS[name](tmp_path / name)
        places[name] = read_file(tmp_path / name)[1]["@where"].removeprefix(str(tmp_path) + "/")
    assert places == {
        "a.json": "a.json, row 2",
        "a.jsonl": "a.jsonl:2",
        "a.jsonl.gz": "a.jsonl.gz:2",
        "a.csv": "a.csv:3",
        "a.parquet": "a.parquet, row 2",
    }
