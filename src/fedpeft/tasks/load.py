"""From a task and a partition to every client's training, validation and test rows.

The source's own test and validation splits are kept where it has them; what it lacks is carved out of each client's
own rows before anything else. A text never stands on two sides: training and validation rows that are also in a
test split (anyone's) are dropped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError, suggest
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.examples import SPLITS, ClientData, Example, FederatedData
from fedpeft.tasks.kinds import find_kind
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.partition import count_label_shares, partition_by_shares, partition_examples
from fedpeft.tasks.sources import Row, Tables, read_source
from fedpeft.tasks.split import Divided, drop_leaked, split_client, subsample

_CLIENT_ID = re.compile(r"[^/\\\x00-\x1f.*][^/\\\x00-\x1f]{0,99}")


@dataclass(frozen=True)
class Item:
    """An example with what dividing needs: its normalised text, and the client that a column assigns it to."""

    example: Example
    key: str
    client: str


def load_task(task: TaskConfig, partition: PartitionConfig, seed: int, base: Path) -> FederatedData:
    """All clients' rows, deterministic in the seed. Raises UserError, one line, for anything wrong with the data."""
    column = _place_column(partition)
    tables, notes = _tables(task, task.source, partition, column, base)
    kind = find_kind(task.kind)
    labels = kind.list_labels(task, tables)
    unknown = "of a {} row never occurs in training; training has"
    if task.labels is not None:
        unknown = "of a {} row is not in task.labels; add it there or leave the row out; task.labels has"
    items = {
        split: [_item(row, task, column, LabelIndex(labels, unknown.format(split))) for row in rows]
        for split, rows in tables.items()
    }
    dealt = partition.kind not in ("natural", "distinct")
    if partition.resplit or dealt:  # where rows are dealt, a repeated text could land on two sides: keep the first
        once = list({item.key: item for item in reversed(items["train"])}.values())[::-1]
        notes += [f"{len(items['train']) - len(once)} rows that repeat a text dropped"] * (
            len(once) < len(items["train"])
        )
        items["train"] = once
    whole, shared = drop_leaked({"": items})  # before dealing, so that min_size still holds after it
    divided, more = drop_leaked(_divide(whole[""], partition, len(labels), seed))
    shared += more
    if shared:
        notes.append(f"{shared} training or validation rows dropped: their text is also in a test or validation split")
    clients = []
    for name, splits in sorted(divided.items()):
        _require_rows(name, splits, partition.min_size)
        clients.append(_client(name, splits, partition, seed))
    kind.check_clients(clients, labels)
    return FederatedData(tuple(clients), tuple(labels), tuple(notes))


def load_client(
    name: str, source: Path, task: TaskConfig, partition: PartitionConfig, labels: Sequence[str], seed: int
) -> ClientData:
    """The rows of one client more, from a file or folder of its own, read and split as those of a task are.

    `labels` are the federation's. Rows of one text stand on one side; nothing is known of other clients' rows. It
    needs as many training rows as every other client has been left with at least. Raises UserError.
    """
    tables, _ = _tables(task, str(source.resolve()), partition, None, Path())
    index = LabelIndex(labels, "is none that the federation was trained on; it knows")
    items = {split: [_item(row, task, None, index) for row in rows] for split, rows in tables.items()}
    whole, _ = drop_leaked({name: items})
    divided, _ = drop_leaked({name: split_client(whole[name], partition, seed, name)})
    _require_rows(
        name, divided[name], min(partition.min_size, partition.max_train or partition.min_size), newcomer=True
    )
    return _client(name, divided[name], partition, seed)


def _tables(
    task: TaskConfig,
    source: str | list[str] | dict[str, str],
    partition: PartitionConfig,
    column: str | None,
    base: Path,
) -> tuple[Tables, list[str]]:
    """Rows by split, with every column that is needed, and notes."""
    tables, notes = read_source(source, base, task.tasks)
    if partition.resplit:
        tables = {"train": [row for rows in tables.values() for row in rows]}
    answers = find_kind(task.kind).list_answer_columns(task)
    for rows in tables.values():
        _require_columns(rows, [c for c in (task.text, task.text_pair, *answers, column) if c])
    if "train" not in tables:
        raise UserError(f"task.source: {source} has no training split, only {', '.join(tables)}")
    return tables, notes


def _client(name: str, splits: dict[str, list[Item]], partition: PartitionConfig, seed: int) -> ClientData:
    limits = {"train": partition.max_train, "validation": partition.max_validation, "test": partition.max_test}
    chosen = {s: subsample(splits[s], limits[s], seed, f"{name} {s}") for s in SPLITS}
    return ClientData(name, **{s: tuple(item.example for item in chosen[s]) for s in SPLITS})


def _place_column(partition: PartitionConfig) -> str | None:
    if partition.kind == "natural":
        if partition.column is None:
            raise UserError("partition.column is missing: natural needs the column whose values are the clients")
        return partition.column
    return "task" if partition.kind in ("distinct", "mixed") else None


def _require_columns(rows: list[Row], columns: list[str]) -> None:
    for row in rows:
        for column in columns:
            if column not in row:
                present = [name for name in row if not str(name).startswith("@")]
                hint = suggest(column, map(str, present))
                raise UserError(f"{row['@where']}: no column {column!r}{hint}; columns: {', '.join(map(str, present))}")


def _item(row: Row, task: TaskConfig, column: str | None, labels: LabelIndex) -> Item:
    example = find_kind(task.kind).make_example(task, row, labels)
    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
    key = "\x1f".join(" ".join(text.lower().split()) for text in texts)
    client = require_client_id(row[column], f"{row['@where']}: column {column!r}") if column else ""
    return Item(example, key, client)


def require_client_id(value: Any, where: str) -> str:
    """The value as the id of a client, which names a folder. Raises UserError when it cannot be one."""
    name = "" if value is None else str(value).strip()
    if not _CLIENT_ID.fullmatch(name):
        raise UserError(
            f"{where} names a client {name!r}; a client id is 1 to 100 characters, "
            "no slash or control character, no leading '.' or '*': rename it"
        )
    return name


def _divide(items: dict[str, list[Item]], partition: PartitionConfig, num_labels: int, seed: int) -> Divided[Item]:
    """By client, then by split. Splits that the source lacks are carved out of each client's training rows."""
    train = items["train"]
    if partition.kind in ("natural", "distinct"):
        names = sorted({item.client for rows in items.values() for item in rows})
        given = {
            name: {split: [item for item in rows if item.client == name] for split, rows in items.items()}
            for name in names
        }
    else:
        count = partition.clients or (len({item.client for item in train}) if partition.kind == "mixed" else 0)
        if not count:
            raise UserError(f"partition.clients is missing: {partition.kind} needs to know how many")
        width = len(str(count - 1))
        labels = {split: [item.example.label for item in rows] for split, rows in items.items()}
        carved = sum(getattr(partition, split) for split in ("validation", "test") if split not in items)
        parts = {"train": partition_examples(labels["train"], count, partition, carved, seed)}
        shares = count_label_shares(parts["train"], labels["train"], num_labels)
        parts |= {split: partition_by_shares(labels[split], shares, seed, split) for split in items if split != "train"}
        given = {
            f"client-{k:0{width}d}": {split: [items[split][i] for i in part[k]] for split, part in parts.items()}
            for k in range(count)
        }
    if partition.kind in ("natural", "distinct") and partition.clients not in (None, len(given)):
        raise UserError(
            f"partition.clients: the data has {len(given)} clients, received {partition.clients}; leave it out"
        )
    return {name: split_client(splits, partition, seed, name) for name, splits in given.items()}


def _require_rows(name: str, splits: dict[str, list[Item]], least: int, newcomer: bool = False) -> None:
    sizes = {split: len(splits[split]) for split in SPLITS}
    for split, size in sizes.items():
        if size < (least if split == "train" else 1):
            lower = "lower min_size, " if split == "train" and size >= 2 else ""  # it may not go below 2
            others = (
                f", {lower}leave it out or choose another partition.kind; "
                "where the source's own splits share texts, set partition.resplit"
            )
            raise UserError(
                f"client {name!r} has {sizes['train']} training, {sizes['validation']} validation and {sizes['test']} "
                f"test rows; each client needs {least} (partition.min_size), 1 and 1: give it more rows"
                + ("" if newcomer else others)  # of a run that is trained nothing else can be changed
            )
