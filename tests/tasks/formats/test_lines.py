"""Lines of plain and compressed files, within the limit; what is no text is one line."""

import gzip

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.formats.lines import read_lines
from fedpeft.tasks.limits import CELL, SizeLimit


def read(path, content, mib=1):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return list(read_lines(path, SizeLimit(mib)))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
def test_lines_keep_their_ends_and_lose_a_byte_order_mark(tmp_path, name):
    assert read(tmp_path / name, "\ufeffä\r\n\u2028\n\nlast".encode()) == ["ä\r\n", "\u2028\n", "\n", "last"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"ab\ncaf\xe9\n", r"a\.csv:2: not UTF-8 \(byte 0xe9\); save it as UTF-8"),
        (b"ab\n\xed\xa0\x80\n", r"a\.csv:2: not UTF-8"),  # half of a character
        (b"ab\na\0b\n", r"a\.csv:2: holds a null character"),
        ("ab\n".encode("utf-16"), r"a\.csv is UTF-16; save it as UTF-8"),
        ("ab\n".encode("utf-16-be"), r"a\.csv:1: holds a null character"),
        (gzip.compress(b"ab\n", mtime=0), r"a\.csv is compressed; let its name end in \.gz"),
        (b"PK\x03\x04rest", r"a\.csv is a zip archive or a spreadsheet; unpack it"),
        (b"PAR1rest", r"a\.csv is Parquet; let its name end in \.parquet"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path, content, line):
    with pytest.raises(UserError, match=line):
        read(tmp_path / "a.csv", content)


@pytest.mark.parametrize("line", [b"x" * 100 + b"\n", b"", b"," * 20 + b"\n"])
def test_a_file_that_decompresses_without_end_is_refused_while_it_is_read(tmp_path, line):
    """Many lines, one line without end, and lines of nothing but values."""
    content = line * 2**15 if line else b"x" * 2**22
    with pytest.raises(UserError, match=r"more than 1 MiB once decompressed; .* raise task\.max_mib"):
        read(tmp_path / "a.jsonl.gz", content)
    assert read(tmp_path / "a.jsonl.gz", content, 64)


def test_no_more_is_read_than_the_limit_has_room_for(tmp_path, monkeypatch):
    sizes = []
    readline = gzip.GzipFile.readline
    monkeypatch.setattr(gzip.GzipFile, "readline", lambda file, size: sizes.append(size) or readline(file, size))
    assert len(read(tmp_path / "a.jsonl.gz", b"1\n" * 10)) == 10
    assert sizes[:2] == [2**20 + 1, 2**20 + 1 - 2 - CELL]
