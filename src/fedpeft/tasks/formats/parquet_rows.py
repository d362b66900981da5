"""Parquet files, whose metadata say before reading how many values there are."""

from pathlib import Path
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.formats.header import require_distinct
from fedpeft.tasks.limits import CELL, SizeLimit

_BATCH = 1024  # rows decoded at once; fewer where they may be large


def read_parquet(path: Path, limit: SizeLimit) -> list[Row]:
    """The rows. A text that the file stores once for a million rows counts a million times, and before it is decoded.

    Raises UserError for whatever pyarrow cannot read or Python cannot hold.
    """
    from pyarrow.parquet import ParquetFile

    rows: list[Row] = []
    try:
        with path.open("rb") as opened, ParquetFile(opened) as file:
            require_distinct(file.schema_arrow.names, str(path))
            largest = _count_values(file.metadata, limit, path)
            room = limit.remaining // (8 * largest + 1)  # a batch takes an eighth of the limit at most
            for batch in file.iter_batches(max(1, min(_BATCH, room))):
                limit.add(batch.nbytes, path)
                rows += batch.to_pylist()
    except UserError:
        raise
    except Exception as error:  # of a damaged file pyarrow raises errors of its own and Python's of any kind
        raise UserError(
            f"task.source: {path}: not a Parquet file that can be read ({str(error) or type(error).__name__}); "
            "write it anew, of texts and numbers alone"
        ) from error
    return [row | {"@where": f"{path}, row {i}"} for i, row in enumerate(rows, 1)]


def _count_values(metadata: Any, limit: SizeLimit, path: Path) -> int:
    """Adds all values to the limit, by the metadata; returns the most bytes that a single row can have.

    That is all that its group of rows stores: repeated values are stored once, and the largest is one of them.
    """
    largest = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        columns = [group.column(j) for j in range(group.num_columns)]
        limit.add(CELL * (group.num_rows + sum(max(group.num_rows, column.num_values) for column in columns)), path)
        largest = max(largest, sum(column.total_uncompressed_size for column in columns))
    return largest
