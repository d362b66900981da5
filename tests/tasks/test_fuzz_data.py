"""Data files with anything in them: every client's examples, or our error on one line, within a bound on memory.

FEDPEFT_FUZZ_EXAMPLES is the number of inputs of each of the two tests.
"""

import csv
import gzip
import io
import json
import os
import resource
from datetime import date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from fedpeft.errors import LIMIT, UserError
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.load import load_task

EXAMPLES = int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", 150))
MEMORY = 300 * 2**10  # KiB that all inputs together may add to the peak
fuzz = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
ROWS = [
    {"text": f'a text, "{i}" ä', "label": i % 2, "site": "xy"[i % 2], "answer": "ab"[i % 2], "output": f"is {i}"}
    for i in range(24)
]
TASKS = [
    TaskConfig(source="a", max_mib=16),
    TaskConfig(source="a", max_mib=16, labels=["no", "yes"]),
    TaskConfig(source="a", max_mib=16, text_pair="output"),
    TaskConfig(source="a", max_mib=16, kind="regression"),
    TaskConfig(source="a", max_mib=16, kind="multiple_choice", choices=["a", "b"]),
    TaskConfig(source="a", max_mib=16, kind="generation", extract="text"),
]
PARTITIONS = [
    PartitionConfig(kind="natural", column="site", min_size=2),
    PartitionConfig(kind="dirichlet", clients=2, min_size=2),
]


def write_jsonl(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def write_csv(rows, delimiter=","):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([columns, *([row.get(name) for name in columns] for row in rows)])
    return file.getvalue().encode("utf-8", "surrogatepass")


def write_parquet(rows, **options):
    file = io.BytesIO()
    write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


WRITERS = {  # by a name whose end is the suffix
    "a.jsonl": write_jsonl,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "inner.jsonl.gz": write_jsonl,  # what is compressed is mutated
    "outer.jsonl.gz": lambda rows: gzip.compress(write_jsonl(rows), mtime=0),
    "a.csv": write_csv,
    "b.csv": lambda rows: write_csv(rows, ";"),
    "a.parquet": write_parquet,
    "b.parquet": lambda rows: write_parquet(rows, compression="none", use_dictionary=False, version="1.0"),
}
WHOLE = {name: write(ROWS) for name, write in WRITERS.items()}
PIECES = (
    b'"', b"'", b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"\xe9",
    b"{", b"}", b"[", b"]", b"[" * 2000, b'{"a":' * 2000, b"\\ud800", b'"\\udfff": 1, ', b"\\u0000", b"NaN",
    b"Infinity",
    b"-", b"1e999", b"9" * 5000, b"null", b"true", b"nan", b" " * 300, b"x" * 140_000, b"," * 5000, b"\x1b[2J", b"PAR1",
    b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"\xff\xff\xff\x7f", b"\x80" * 10 + b"\x01", b"\x00" * 64, b"\xc2\x9b", b"../x",
)  # fmt: skip
edits = st.lists(
    st.tuples(
        st.integers(0, 10_000),  # where, in ten-thousandths of the file
        st.one_of(st.integers(0, 3), st.integers(0, 400)),  # how many bytes are replaced
        st.one_of(st.binary(max_size=4), st.sampled_from(PIECES)),
    ),
    min_size=1,
    max_size=4,
)
names = st.one_of(
    st.sampled_from(list(ROWS[0])),
    st.sampled_from(("", "@where", "file", "task", "text ", "\ud800", "a\nb", "x" * 300, "{text}", "\x1b[2J")),
)
values = st.one_of(
    st.text(max_size=4),
    st.sampled_from(
        ("", " ", "\u200b", "nan", "NaN", "None", "--5", "²", "٣", "1.0", "1e999", "1_0", "9" * 5000, "-1", "2", "a",
         "b", "\ud800", "\0", "\x1b[2J", "a\nb", "\u2028", "x" * 300, "north/..", ".", "*", "CON", "北" * 99,
         "{text_pair}", "{0.__class__}", "Answer format: a/b", "Answer format: a/a", "####", None, True, False, 0, 1,
         -1, 2, 10**18, 10**99, -0.0, 0.5, 1.0, 1e308, float("nan"), float("inf"), [], {}, [[]], ["a"], {"a": 1},
         {"": []}, [None] * 99, b"", b"caf\xe9", datetime(1, 1, 1), datetime(9999, 12, 31, 23), date(2000, 1, 1),
         timedelta.max, timedelta.min, Decimal("NaN"), Decimal("1e30"), Decimal("0.10"))
    ),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def load_or_refuse(folder, name, content, task, partition):
    """Passes where the file is data, or one line says why it is none, which is returned."""
    if name == "inner.jsonl.gz":
        content = gzip.compress(content, 1)
    (folder / name).write_bytes(content)
    try:
        data = load_task(task.model_copy(update={"source": name}), partition, 0, folder)
    except UserError as error:
        line = str(error)
        assert line and line.isprintable() and len(line) <= LIMIT
        return line
    assert all(client.train and client.validation and client.test for client in data.clients)
    json.dumps([data.labels, data.notes, [client.id for client in data.clients]], ensure_ascii=False).encode()
    return None


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind}")
def test_a_whole_file_is_read(folder, name, task):
    assert load_or_refuse(folder, name, WHOLE[name], task, PARTITIONS[0]) is None


@fuzz
@example("a.csv", [(0, 10_000, b",b\r\x01")], TASKS[0], PARTITIONS[0])  # a last line of one character
@given(st.sampled_from(list(WRITERS)), edits, st.sampled_from(TASKS), st.sampled_from(PARTITIONS))
def test_a_damaged_file_is_data_or_one_line(folder, name, edits, task, partition):
    content = WHOLE[name]
    for place, length, piece in edits:
        start = place * len(content) // 10_000
        content = content[:start] + piece + content[start + length :]
    load_or_refuse(folder, name, content, task, partition)


@fuzz
@given(
    st.sampled_from(list(WRITERS)),
    st.dictionaries(st.tuples(st.integers(0, 23), names), values, max_size=4),
    st.dictionaries(names, values, max_size=2),
    st.sampled_from(TASKS),
    st.sampled_from(PARTITIONS),
)
def test_a_table_of_anything_is_data_or_one_line(folder, name, cells, whole_columns, task, partition):
    """Single cells and whole columns replaced by values of any kind."""
    rows = [row | whole_columns for row in ROWS]
    for (i, column), value in cells.items():
        rows[i] = rows[i] | {column: value}
    try:
        content = WRITERS[name](rows)
    except (TypeError, ValueError, OverflowError, pa.ArrowException):  # what this format cannot hold
        return
    load_or_refuse(folder, name, content, task, partition)
