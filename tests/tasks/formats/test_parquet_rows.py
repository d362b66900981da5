"""Parquet: rows as they are, a limit that is checked before values are decoded, and one line for damaged files."""

import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from fedpeft.errors import UserError
from fedpeft.tasks.formats.parquet_rows import read_parquet
from fedpeft.tasks.limits import SizeLimit


@pytest.fixture
def write(tmp_path):
    """write(columns, **options of pyarrow) -> the file."""

    def write_file(columns, **options):
        write_table(pa.table(columns), tmp_path / "a.parquet", compression="zstd", **options)
        return tmp_path / "a.parquet"

    return write_file


def test_rows_keep_their_order_over_batches_and_groups(write):
    path = write(
        {"text": [f"text {i}" for i in range(2500)], "label": [i % 3 for i in range(2500)]}, row_group_size=999
    )
    rows = read_parquet(path, SizeLimit())
    assert [(row["text"], row["label"]) for row in rows] == [(f"text {i}", i % 3) for i in range(2500)]
    assert rows[2000]["@where"] == f"{path}, row 2001"


def test_columns_of_lists_and_records_are_left_out(write):
    path = write({"text": ["a"], "list": [["b"]], "record": [{"text": "c"}], "text.b": ["d"]})
    assert read_parquet(path, SizeLimit()) == [{"text": "a", "text.b": "d", "@where": f"{path}, row 1"}]
    nothing = pa.ListArray.from_arrays(pa.array([0, 500_000], pa.int32()), pa.nulls(500_000, pa.int8()))
    with pytest.raises(UserError, match="has no column of single values, only lists or records"):
        read_parquet(write({"list": nothing}), SizeLimit())


def test_damaged_metadata_of_a_column_do_not_end_the_process(write):
    """pyarrow aborts where these are looked at; reading the values raises an error."""
    content = write({"text": ["a"] * 24, "label": [0] * 24}).read_bytes()
    path = write({"text": ["a"]})
    for at in range(len(content) - 600, len(content) - 8):
        path.write_bytes(content[:at] + b"\x15" + content[at + 1 :])
        try:
            read_parquet(path, SizeLimit(16))
        except UserError as error:
            assert str(error).isprintable()


TEXT = "x" * 100_000
BOMBS = {
    "a text stored once": ({"text": [TEXT] * 500}, {}),
    "categories": ({"text": pa.array([TEXT] * 500).dictionary_encode()}, {}),
    "texts by what they share": (
        {"text": [TEXT] * 500},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    ),
    "rows of nothing": ({"text": pa.nulls(500_000, pa.string())}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_of_many_values_is_refused_before_they_are_decoded(write, name):
    columns, options = BOMBS[name]
    path = write(columns, **options)
    assert path.stat().st_size < 10_000
    before = pa.total_allocated_bytes()
    decoded = []
    limit = SizeLimit(16)
    add = limit.add
    limit.add = lambda size, where: decoded.append(pa.total_allocated_bytes() - before) or add(size, where)
    with pytest.raises(UserError, match=r"more than 16 MiB once decompressed"):
        read_parquet(path, limit)
    assert max(decoded) < 4 * 2**20
    assert read_parquet(path, SizeLimit(512))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"caf\xe9"]).cast(pa.string(), safe=False), "codec can't decode"),
        (pa.array([2**61], pa.timestamp("ms")), "too large|out of range"),
        (pa.array([2**62], pa.duration("s")), "days|OverflowError|large"),
    ],
)
def test_a_value_that_python_cannot_hold_is_one_line(write, column, reason):
    with pytest.raises(UserError, match=rf"a\.parquet: not a Parquet file that can be read \(.*({reason})") as caught:
        read_parquet(write({"column": column}), SizeLimit())
    assert str(caught.value).endswith("write it anew, of texts and numbers alone")


def test_two_columns_of_one_name_are_one_line(tmp_path):
    write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="the header holds 'text' twice"):
        read_parquet(tmp_path / "a.parquet", SizeLimit())


def test_what_is_no_parquet_is_one_line(tmp_path, write):
    whole = write({"text": ["a"] * 100}).read_bytes()
    for content in (b"", b"no parquet", whole[:-20], whole[:30] + bytes(20) + whole[50:]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"not a Parquet file that can be read \(.+\); write it anew"):
            read_parquet(tmp_path / "a.parquet", SizeLimit())
