"""Examples that a program gives instead of naming a source: data sets and lists of rows, of one table or by client."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fedpeft.errors import UserError, preview
from fedpeft.tasks.formats import Row
from fedpeft.tasks.hub import name_labels
from fedpeft.tasks.sources import SPLIT_NAMES, Tables

IN_MEMORY = "in-memory"  # what the settings of a run call a source, or a model, that was given by a program
CLIENT = "client"  # the column that names the client of each row, where data are given by client
_FORMS = "a datasets.Dataset, a list of dicts, either of them by split or by client"


def read_given(data: Any) -> tuple[Tables, bool]:
    """Rows by split, and whether they were given by client; then the column `CLIENT` of each says which.

    A mapping whose keys are all names of splits is by split, any other is by client, whose data may again be by split.
    The objects given stay as they are. Raises UserError for anything else.
    """
    if not isinstance(data, Mapping):
        return {"train": _read_rows(data, "data")}, False
    if not data:
        raise UserError(f"data: empty, received {preview(data)}; give {_FORMS}")
    if all(name in SPLIT_NAMES for name in data):
        return _read_splits(data, "data"), False
    tables: Tables = {}
    for client, own in data.items():
        where = f"data[{preview(client, 40)}]"
        splits = _read_splits(own, where) if isinstance(own, Mapping) else {"train": _read_rows(own, where)}
        for split, rows in splits.items():
            for row in rows:
                if row.setdefault(CLIENT, client) != client:
                    raise UserError(
                        f"{row['@where']}: its column {CLIENT!r} says {preview(row[CLIENT])}; rename that column, or "
                        "give one table and partition.column"
                    )
            tables.setdefault(split, []).extend(rows)
    for client, own in data.items():
        names = {SPLIT_NAMES[name] for name in own} if isinstance(own, Mapping) else {"train"}
        if names != tables.keys():
            name = preview(client, 40)
            raise UserError(f"data: some clients have the splits {', '.join(tables)}, client {name} has others")
    return tables, True


def _read_splits(data: Mapping[str, Any], where: str) -> Tables:
    tables: Tables = {}
    for name, table in data.items():
        split = SPLIT_NAMES.get(name) if isinstance(name, str) else None
        if split is None or split in tables:
            received = preview(list(data))
            raise UserError(f"{where}: splits are train, validation and test, each once, received {received}")
        tables[split] = _read_rows(table, f"{where}[{name!r}]")
    return tables


def _read_rows(table: Any, where: str) -> list[Row]:
    datasets = sys.modules.get("datasets")  # whoever gives a data set has imported it
    labels: dict[str, list[str]] = {}
    if datasets is not None and isinstance(table, datasets.Dataset):
        labels = {c: f.names for c, f in table.features.items() if isinstance(f, datasets.ClassLabel)}
    elif not isinstance(table, Sequence) or isinstance(table, str | bytes):
        raise UserError(f"{where}: expected {_FORMS}, received {preview(type(table).__name__)}")
    if not len(table):
        raise UserError(f"{where} holds no rows")
    rows: list[Row] = []
    for i, row in enumerate(table):
        if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
            raise UserError(f"{where}[{i}]: expected a dict by column, received {preview(row)}")
        rows.append(name_labels(dict(row), labels) | {"@where": f"{where}[{i}]"})
    return rows
