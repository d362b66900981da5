"""Data sets of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.formats import Row
from fedpeft.tasks.limits import CELL, SizeLimit

_OWNERS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}  # the short names people write


def read_hub(
    source: str, path: Path, splits: Mapping[str, str], limit: SizeLimit
) -> tuple[dict[str, list[Row]], list[str]]:
    """Rows of `glue/sst2`, `owner/name` or `owner/name/config` by split, and notes.

    `splits` are our names of splits by the hub's; others are left out, and so is a split whose labels are withheld. A
    class label is given by its name. `path` is where the source was not found on disk. Raises UserError.
    """
    from datasets import ClassLabel, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    first, *rest = source.split("/")
    name, config = (_OWNERS[first], rest) if first in _OWNERS else ("/".join([first, *rest[:1]]), rest[1:])
    try:
        data = load_dataset(name, *config)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"task.source: {source!r} is neither at {path} nor a hub data set in reach ({reason})"
        ) from error
    tables, notes = {}, []
    for split, table in data.items():
        if split not in splits:
            notes.append(f"{source}: split {split!r} is not used")
            continue
        limit.add(table.data.nbytes + CELL * table.num_rows * (table.num_columns + 1), f"{source} {split}")
        names = {c: f.names for c, f in table.features.items() if isinstance(f, ClassLabel)}
        rows = [name_labels(row, names) | {"@where": f"{source} {split}, row {i}"} for i, row in enumerate(table, 1)]
        if names and all(row[c] == -1 for row in rows for c in names):
            notes.append(f"{source}: the labels of split {split!r} are withheld; it is not used")
        else:
            tables[splits[split]] = rows
    return tables, notes


def name_labels(row: Row, names: dict[str, list[str]]) -> dict[str, Any]:
    """The row with class labels by their names; -1, a label withheld, stays."""
    return {c: names[c][v] if c in names and v is not None and v >= 0 else v for c, v in row.items()}
