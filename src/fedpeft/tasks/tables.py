"""The source's rows by split, with every column that the experiment needs."""

from pathlib import Path

from fedpeft.errors import UserError, suggest
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.formats import Row
from fedpeft.tasks.given import IN_MEMORY
from fedpeft.tasks.kinds import find_kind
from fedpeft.tasks.sources import Tables, read_source


def read_tables(
    task: TaskConfig,
    source: str | list[str] | dict[str, str],
    partition: PartitionConfig,
    client_column: str | None,
    base: Path,
) -> tuple[Tables, list[str]]:
    """Rows by split, and notes. `partition.resplit` makes one training split of them all.

    Raises UserError where a column or the training split is missing, and for anything unreadable.
    """
    notes: list[str] = []
    if source == IN_MEMORY:
        tables = task.get_rows()
    else:
        tables, notes = read_source(source, base, task.tasks, task.max_mib)
    if partition.resplit:
        tables = {"train": [row for rows in tables.values() for row in rows]}
    answer_columns = find_kind(task.kind).list_answer_columns(task)
    columns = [c for c in (task.text, task.text_pair, *answer_columns, client_column) if c]
    for rows in tables.values():
        _require_columns(rows, columns)
    if "train" not in tables:
        raise UserError(f"task.source: {source} has no training split, only {', '.join(tables)}")
    return tables, notes


def get_client_column(partition: PartitionConfig) -> str | None:
    """The column whose values are clients, or the tasks that `mixed` counts; None where rows are dealt without one.

    Raises UserError where `natural` names none.
    """
    if partition.kind == "natural":
        if partition.column is None:
            raise UserError("partition.column is missing: natural needs the column whose values are the clients")
        return partition.column
    return "task" if partition.kind in ("distinct", "mixed") else None


def _require_columns(rows: list[Row], columns: list[str]) -> None:
    for row in rows:
        for column in columns:
            if column not in row:
                names = [str(name) for name in row if not str(name).startswith("@")]
                hint = suggest(column, names)
                raise UserError(f"{row['@where']}: no column {column!r}{hint}; columns: {', '.join(names)}")
