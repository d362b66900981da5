"""Every format of a file gives the same rows; what cannot be read is one line that says where."""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet
import pytest

from fedpeft.errors import UserError
from fedpeft.tasks import files
from fedpeft.tasks.files import read_file
from fedpeft.tasks.limits import SizeLimit

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
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.jsonl.gz", b"not gzip", "cannot be read (Not a gzipped file (b'no')); copy or write it anew"),
        ("a.jsonl.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], "cannot be read (Compressed file ended before"),
        ("a.jsonl.gz", gzip.compress(b"text" * 99, mtime=0)[:10] + bytes([255] * 40), "cannot be read (Error -3 while"),
        ("a.parquet", b"not parquet", "not a Parquet file"),
        ("a.xlsx", b"x", "known are .jsonl, .jsonl.gz, .json, .json.gz, .csv, .parquet; save it as one of them"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / name)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_ordinary_file_is_one_line_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name, line in {
        "pipe": "is a pipe, a socket or a device; save its rows to a file",
        "zero": "is a pipe, a socket or a device",
        "folder": r"folder\.csv is a folder; name the files in it",
        "none": "no such file",
    }.items():
        with pytest.raises(UserError, match=line):
            read_file(tmp_path / f"{name}.csv")


def test_a_disk_or_memory_that_fails_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\nx\n")
    for error, reason in (
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (MemoryError(), "MemoryError"),
    ):

        def read(path, limit, error=error):
            raise error

        monkeypatch.setitem(files._READERS, ".csv", read)
        with pytest.raises(UserError, match=rf"a\.csv: cannot be read \(.*{reason}\); copy or write it anew"):
            read_file(tmp_path / "a.csv")


def test_several_files_share_one_limit(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 600_000}))
    limit = SizeLimit(1)
    read_file(tmp_path / "a.jsonl", limit)
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_file(tmp_path / "a.jsonl", limit)


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
