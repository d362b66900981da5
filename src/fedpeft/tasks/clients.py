"""From items by split to every client's own."""

import unicodedata
from collections.abc import Sequence

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.examples import SPLITS, ClientData
from fedpeft.tasks.items import ClientSplits, Splits
from fedpeft.tasks.partition import compute_label_fractions, partition_by_fractions, partition_examples
from fedpeft.tasks.split import split_client, subsample


def assign_items(items: Splits, partition: PartitionConfig, num_labels: int, seed: int) -> ClientSplits:
    """By client, then by split. Splits that the source lacks are carved out of each client's training rows.

    Raises UserError where the rows cannot serve the clients asked for.
    """
    assign = _partition_items if partition.is_dealt else _group_by_client
    clients = assign(items, partition, num_labels, seed)
    return {name: split_client(splits, partition, seed, name) for name, splits in clients.items()}


def _group_by_client(items: Splits, partition: PartitionConfig, num_labels: int, seed: int) -> ClientSplits:
    names = sorted({item.client for of_split in items.values() for item in of_split})
    if partition.clients not in (None, len(names)):
        raise UserError(
            f"partition.clients: the data has {len(names)} clients, received {partition.clients}; leave it out"
        )
    require_distinct_ids(names)
    return {
        name: {split: [item for item in of_split if item.client == name] for split, of_split in items.items()}
        for name in names
    }


def require_distinct_ids(names: Sequence[str]) -> None:
    """Raises UserError where two ids are one by case or by how an accent is written: mostly a slip, and one folder on
    some file systems."""
    names_by_key: dict[str, str] = {}
    for name in names:
        first_name = names_by_key.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first_name != name:
            raise UserError(
                f"partition.column: clients {first_name!r} and {name!r} differ by case or accents only; write them "
                "alike, or rename one"
            )


def _partition_items(items: Splits, partition: PartitionConfig, num_labels: int, seed: int) -> ClientSplits:
    """Training rows by the kind of partition; the rows of other splits follow each client's label fractions."""
    count = partition.clients
    if count is None and partition.kind == "mixed":  # as many clients as tasks
        count = len({item.client for item in items["train"]})
    if not count:
        raise UserError(f"partition.clients is missing: {partition.kind} needs to know how many")
    labels = {split: [item.example.label for item in of_split] for split, of_split in items.items()}
    held_out = sum(getattr(partition, split) for split in ("validation", "test") if split not in items)
    parts = {"train": partition_examples(labels["train"], count, partition, held_out, seed)}
    fractions = compute_label_fractions(parts["train"], labels["train"], num_labels)
    for split in items:
        if split != "train":
            parts[split] = partition_by_fractions(labels[split], fractions, seed, split)
    digits = len(str(count - 1))
    return {
        f"client-{k:0{digits}d}": {split: [items[split][i] for i in part[k]] for split, part in parts.items()}
        for k in range(count)
    }


def make_client(name: str, splits: Splits, partition: PartitionConfig, seed: int) -> ClientData:
    """The client's examples, at most as many of each split as the partition allows, drawn with the seed."""
    limits = {"train": partition.max_train, "validation": partition.max_validation, "test": partition.max_test}
    items = {split: subsample(splits[split], limits[split], seed, f"{name} {split}") for split in SPLITS}
    return ClientData(name, **{split: tuple(item.example for item in of_split) for split, of_split in items.items()})


def require_enough(name: str, splits: Splits, least: int, joins: bool = False) -> None:
    """Raises UserError where a client has fewer than `least` training rows, or no validation or test row.

    `joins`: it joins a run that is trained, of which nothing else can be changed any more.
    """
    sizes = {split: len(splits[split]) for split in SPLITS}
    missing = next((split for split in SPLITS if sizes[split] < (least if split == "train" else 1)), None)
    if missing is None:
        return
    lower = "lower min_size, " if missing == "train" and sizes["train"] >= 2 else ""  # it may not go below 2
    remedies = (
        f", {lower}leave it out or choose another partition.kind; "
        "where the source's own splits share texts, set partition.resplit"
    )
    raise UserError(
        f"client {name!r} has {sizes['train']} training, {sizes['validation']} validation and {sizes['test']} "
        f"test rows; each client needs {least} (partition.min_size), 1 and 1: give it more rows"
        + ("" if joins else remedies)
    )
