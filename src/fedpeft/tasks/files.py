"""One file of rows: JSON lines, a JSON array, CSV or Parquet, each also compressed where that is usual."""

import zlib
from collections.abc import Callable
from pathlib import Path

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.formats.csv_rows import read_csv
from fedpeft.tasks.formats.json_rows import read_json
from fedpeft.tasks.formats.parquet_rows import read_parquet
from fedpeft.tasks.limits import SizeLimit

_READERS: dict[str, Callable[[Path, SizeLimit], list[Row]]] = {
    ".jsonl": read_json,
    ".jsonl.gz": read_json,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
SUFFIXES = tuple(_READERS)


def read_file(path: Path, limit: SizeLimit | None = None) -> list[Row]:
    """The file's rows, in its order, counted in `limit`.

    Raises UserError, one line with the place, for anything unreadable and for more rows than the limit has room for.
    """
    _require_file(path)
    read = next((read for suffix, read in _READERS.items() if path.name.endswith(suffix)), None)
    if read is None:
        raise UserError(f"task.source: {path}: known are {', '.join(SUFFIXES)}; save it as one of them")
    try:
        rows = read(path, limit or SizeLimit())
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(
            f"task.source: {path}: cannot be read ({str(error) or type(error).__name__}); copy or write it anew"
        ) from error
    if not rows:
        raise UserError(f"task.source: {path} holds no rows")
    return rows


def _require_file(path: Path) -> None:
    """Raises UserError for what is no ordinary file: a pipe would be waited for, and a device read for ever."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"task.source: expected a file, {path} is a folder; name the files in it")
    if path.exists():
        raise UserError(f"task.source: {path} is a pipe, a socket or a device; save its rows to a file")
    raise UserError(f"task.source: no such file: {path}")
