"""From a task and a partition to every client's training, validation and test examples.

The source's own test and validation splits are kept where it has them; what it lacks is carved out of each client's
own rows. A text never stands in two splits: training and validation rows that are also in a test split (any client's)
are dropped.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedpeft.tasks.clients import assign_items, make_client, require_enough
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.examples import ClientData, FederatedData
from fedpeft.tasks.items import Splits, make_item
from fedpeft.tasks.kinds import find_kind
from fedpeft.tasks.kinds.base import TaskKind
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.sources import Tables
from fedpeft.tasks.split import drop_leaked, drop_repeated, split_client
from fedpeft.tasks.tables import get_client_column, read_tables


def load_task(task: TaskConfig, partition: PartitionConfig, seed: int, base: Path) -> FederatedData:
    """All clients' examples, deterministic in the seed; relative paths start at `base`.

    Raises UserError, one line, for anything wrong with the data.
    """
    column = get_client_column(partition)
    tables, notes = read_tables(task, task.source, partition, column, base)
    kind = find_kind(task.kind)
    labels = kind.list_labels(task, tables)
    items = _make_items(kind, task, tables, column, labels)
    counts = Counter(item.example.label for of_split in items.values() for item in of_split)
    notes += kind.find_problems(labels, [counts[i] for i in range(len(labels))])
    if partition.resplit or partition.is_dealt:  # a repeated text could come to two splits: its first row stays
        distinct = drop_repeated(items["train"])
        if len(distinct) < len(items["train"]):
            notes.append(f"{len(items['train']) - len(distinct)} rows that repeat a text dropped")
        items["train"] = distinct
    without_leaks, leaked_before = drop_leaked(
        {"": items}
    )  # before dealing, so that each client keeps min_size after it
    clients, leaked_after = drop_leaked(assign_items(without_leaks[""], partition, len(labels), seed))
    if leaked_before + leaked_after:
        notes.append(
            f"{leaked_before + leaked_after} training or validation rows dropped: "
            "their text is also in a test or validation split"
        )
    for name, splits in sorted(clients.items()):
        require_enough(name, splits, partition.min_size)
    data = [make_client(name, splits, partition, seed) for name, splits in sorted(clients.items())]
    kind.check_clients(data, labels)
    return FederatedData(tuple(data), tuple(labels), tuple(notes))


def load_client(
    name: str,
    source: Path | Tables,
    task: TaskConfig,
    partition: PartitionConfig,
    labels: Sequence[str],
    seed: int,
) -> ClientData:
    """The examples of a client that joins, from a file, a folder or rows of its own, read and split as a task's are.

    `labels` are the federation's. Rows of one text stand in one split; other clients' rows are not known here. It
    needs as many training rows as every other client has been left with at least. Raises UserError.
    """
    if isinstance(source, Path):
        tables, _ = read_tables(task, str(source.resolve()), partition, None, Path())
    else:
        own = task.model_copy()
        own.give_rows(source)
        tables, _ = read_tables(own, own.source, partition, None, Path())
    index = LabelIndex(labels, "is none that the federation was trained on; it knows")
    kind = find_kind(task.kind)
    items = {split: [make_item(row, kind, task, None, index) for row in rows] for split, rows in tables.items()}
    without_leaks, _ = drop_leaked({name: items})
    splits = split_client(without_leaks[name], partition, seed, name)  # rows of one text stay together
    require_enough(name, splits, min(partition.min_size, partition.max_train or partition.min_size), joins=True)
    return make_client(name, splits, partition, seed)


def _make_items(
    kind: type[TaskKind], task: TaskConfig, tables: Tables, client_column: str | None, labels: Sequence[str]
) -> Splits:
    unknown = "of a {} row never occurs in training; training has"
    if task.labels is not None:
        unknown = "of a {} row is not in task.labels; add it there or leave the row out; task.labels has"
    indices = {split: LabelIndex(labels, unknown.format(split)) for split in tables}
    return {
        split: [make_item(row, kind, task, client_column, indices[split]) for row in rows]
        for split, rows in tables.items()
    }
