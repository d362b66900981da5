"""Within a client: carving out splits, keeping duplicates on one side, drawing fewer rows."""

from collections import defaultdict
from typing import Protocol, TypeVar

from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.examples import SPLITS, Example
from fedpeft.tasks.partition import generator


class Keyed(Protocol):
    """Anything with an example and its normalised text."""

    @property
    def example(self) -> Example: ...

    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)
Divided = dict[str, dict[str, list[K]]]  # by client, then by split


def split_client(splits: dict[str, list[K]], partition: PartitionConfig, seed: int, name: str) -> dict[str, list[K]]:
    """The three splits of one client; those missing are taken from its training rows, label by label.

    Rows of one text move together. Where a label has too few rows for a share of its own, the draw decides; a client
    with rows left gets at least one row in each split.
    """
    wanted = {split: getattr(partition, split) for split in ("test", "validation") if split not in splits}
    groups: dict[str, list[K]] = defaultdict(list)
    for item in splits["train"]:
        groups[item.key].append(item)
    by_label: dict[int, list[list[K]]] = defaultdict(list)
    for group in groups.values():
        by_label[group[0].example.label].append(group)
    result: dict[str, list[K]] = {split: list(splits.get(split, [])) for split in SPLITS}
    result["train"] = []
    owed = dict.fromkeys(wanted, 0.0)  # fractions of a row carried from label to label, so that shares hold in total
    draw = generator(seed, f"carve {name}")
    for _, own in sorted(by_label.items()):
        order = [own[i] for i in draw.permutation(len(own)).tolist()]
        for split, share in wanted.items():
            owed[split] += share * len(own)
            take = min(int(owed[split] + 0.5), len(order))
            owed[split] -= take
            result[split] += [item for group in order[:take] for item in group]
            order = order[take:]
        result["train"] += [item for group in order for item in group]
    return result


def drop_leaked(divided: Divided[K]) -> tuple[Divided[K], int]:
    """Without the training and validation rows whose text is in a test split, or training rows in a validation
    split, of any client; and how many those were. A split that is not there stays so."""
    test = {item.key for splits in divided.values() for item in splits.get("test", [])}
    validation = {item.key for splits in divided.values() for item in splits.get("validation", [])}
    elsewhere = {"train": test | validation, "validation": test, "test": set()}
    dropped = 0
    kept: Divided[K] = {}
    for name, splits in divided.items():
        kept[name] = {s: [item for item in rows if item.key not in elsewhere[s]] for s, rows in splits.items()}
        dropped += sum(len(rows) - len(kept[name][split]) for split, rows in splits.items())
    return kept, dropped


def subsample(rows: list[K], limit: int | None, seed: int, purpose: str) -> list[K]:
    """At most `limit` of the rows, drawn with the seed, in their order."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = generator(seed, f"thin {purpose}").permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())]
