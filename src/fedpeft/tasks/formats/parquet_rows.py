"""Parquet files, whose metadata say before reading how many values there are."""

from pathlib import Path
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.formats.header import require_distinct
from fedpeft.tasks.limits import CELL, SizeLimit

_BATCH = 1024  # rows decoded at once; fewer where they may be large


def read_parquet(path: Path, limit: SizeLimit) -> list[Row]:
    """The rows, of columns of single values: lists and records, which no task reads, are left out.

    A text that the file stores once for a million rows counts a million times. Raises UserError for whatever pyarrow
    cannot read or Python cannot hold.
    """
    from pyarrow.parquet import ParquetFile
    from pyarrow.types import is_nested

    rows: list[Row] = []
    try:
        with path.open("rb") as opened, ParquetFile(opened) as file:
            require_distinct(file.schema_arrow.names, str(path))
            columns = [field.name for field in file.schema_arrow if not is_nested(field.type)]
            if not columns:
                raise UserError(f"task.source: {path} has no column of single values, only lists or records")
            limit.add(CELL * file.metadata.num_rows * (len(columns) + 1), path)
            room = limit.remaining // (8 * _find_largest_group(file.metadata) + 1)  # a batch takes an eighth at most
            for batch in file.iter_batches(max(1, min(_BATCH, room)), columns=columns):
                batch = _decode_categories(batch)
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


def _decode_categories(batch: Any) -> Any:
    """The batch with every value in its row: in Arrow each category stands once, in Python in every row that has it."""
    from pyarrow import RecordBatch
    from pyarrow.types import is_dictionary

    columns = [column.dictionary_decode() if is_dictionary(column.type) else column for column in batch.columns]
    return RecordBatch.from_arrays(columns, names=batch.schema.names)


def _find_largest_group(metadata: Any) -> int:
    """The most bytes that a group of rows stores, and so the most that one row can have: repeated values are stored
    once. The metadata of single columns tell more, but pyarrow ends the process where those are damaged."""
    return max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
