"""One file of rows: JSON lines, a JSON array, CSV or Parquet, each also compressed where that is usual."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError

Row = dict[str, Any]  # a row's columns by name, and "@where": the file and line that it came from
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")


def read_file(path: Path) -> list[Row]:
    """The file's rows, in its order. Raises UserError, one line with the place, for anything unreadable."""
    if not path.is_file():
        raise UserError(f"task.source: no such file: {path}")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"task.source: {path}: known are {', '.join(SUFFIXES)}")
    if path.name.endswith(".parquet"):
        return _read_parquet(path)
    text = _read_text(path)
    rows = _read_csv(text, path) if path.name.endswith(".csv") else _read_json(text, path)
    if not rows:
        raise UserError(f"task.source: {path} holds no rows")
    return rows


def _read_text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"task.source: {path}: cannot be read: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"task.source: {path}:{line}: not UTF-8 (byte {data[error.start]:#x}); save it as UTF-8"
        ) from error


def _read_json(text: str, path: Path) -> list[Row]:
    if text.lstrip().startswith("["):
        return _read_json_array(text, path)
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"task.source: {path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"task.source: {path}:{number}: expected an object of columns, received {line[:40]!r}")
        rows.append(row | {"@where": f"{path}:{number}"})
    return rows


def _read_json_array(text: str, path: Path) -> list[Row]:
    """One array of objects, as LLM-Adapters' files are."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"task.source: {path}: not valid JSON ({error})") from error
    other = next((row for row in rows if not isinstance(row, dict)), None)
    if other is not None:
        raise UserError(f"task.source: {path}: expected objects of columns, received {str(other)[:40]!r}")
    return [row | {"@where": f"{path}, row {i}"} for i, row in enumerate(rows, 1)]


def _read_csv(text: str, path: Path) -> list[Row]:
    """Every record has as many fields as the header: one comma more or less would move text into other columns."""
    reader = csv.reader(io.StringIO(text, newline=""))  # whose lines end where CSV's do, not at every Unicode break
    rows: list[Row] = []
    try:
        header = next((fields for fields in reader if fields), [])
        repeated = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
        if repeated is not None:
            raise UserError(
                f"{path}:{reader.line_num}: the header holds {repeated!r} twice; rename one of the two columns"
            )
        for fields in reader:
            if len(fields) == len(header):
                row: Row = dict(zip(header, fields, strict=True))
                row["@where"] = f"{path}:{reader.line_num}"
                rows.append(row)
            elif fields:  # an empty line has none
                raise UserError(
                    f"{path}:{reader.line_num}: {len(fields)} fields, the header has {len(header)}; "
                    "quote texts that contain commas"
                )
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error}); is every quote closed?") from error
    return rows


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"task.source: {path}: not a Parquet file: {str(error).splitlines()[0]}") from error
    return [row | {"@where": f"{path}, row {i}"} for i, row in enumerate(table.to_pylist(), 1)]
