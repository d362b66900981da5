"""Within a client: carving out splits, keeping each text in one split, drawing fewer rows."""

from collections import defaultdict

from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.examples import SPLITS
from fedpeft.tasks.items import ClientSplits, Item, Splits
from fedpeft.tasks.partition import make_generator


def split_client(splits: Splits, partition: PartitionConfig, seed: int, client: str) -> Splits:
    """The three splits of one client; those missing are taken from its training rows, label by label.

    Rows of one text move together. Where a label has too few rows for the fraction held out, the draw decides; a client
    with rows left gets at least one row in each split.
    """
    fractions = {split: getattr(partition, split) for split in ("test", "validation") if split not in splits}
    result: Splits = {split: list(splits.get(split, [])) for split in SPLITS}
    result["train"] = []
    remainders = dict.fromkeys(
        fractions, 0.0
    )  # parts of a row carried from label to label, so that fractions hold in total
    generator = make_generator(seed, f"carve {client}")
    for _, groups in sorted(_group_by_label(splits["train"]).items()):
        remaining = [groups[i] for i in generator.permutation(len(groups)).tolist()]
        for split, fraction in fractions.items():
            remainders[split] += fraction * len(groups)
            count = min(int(remainders[split] + 0.5), len(remaining))
            remainders[split] -= count
            result[split] += [item for group in remaining[:count] for item in group]
            remaining = remaining[count:]
        result["train"] += [item for group in remaining for item in group]
    return result


def _group_by_label(items: list[Item]) -> dict[int, list[list[Item]]]:
    """By label the groups of items of one text; a group's label is that of its first item."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.key].append(item)
    by_label: dict[int, list[list[Item]]] = defaultdict(list)
    for group in groups.values():
        by_label[group[0].example.label].append(group)
    return by_label


def drop_repeated(items: list[Item]) -> list[Item]:
    """The first item of each text, at the place of the text's last one."""
    first = {item.key: item for item in reversed(items)}  # a later assignment replaces the item, not its place
    return list(first.values())[::-1]


def drop_leaked(clients: ClientSplits) -> tuple[ClientSplits, int]:
    """Without the training and validation rows whose text is in a test split, or training rows in a validation
    split, of any client; and how many those were. A split that is not there stays so."""
    test = {item.key for splits in clients.values() for item in splits.get("test", [])}
    validation = {item.key for splits in clients.values() for item in splits.get("validation", [])}
    forbidden = {"train": test | validation, "validation": test, "test": set()}
    dropped = 0
    result: ClientSplits = {}
    for name, splits in clients.items():
        result[name] = {s: [item for item in items if item.key not in forbidden[s]] for s, items in splits.items()}
        dropped += sum(len(items) - len(result[name][split]) for split, items in splits.items())
    return result, dropped


def subsample(items: list[Item], limit: int | None, seed: int, purpose: str) -> list[Item]:
    """At most `limit` of the items, drawn with the seed, in their order."""
    if limit is None or len(items) <= limit:
        return items
    positions = make_generator(seed, f"thin {purpose}").permutation(len(items))[:limit]
    return [items[i] for i in sorted(positions.tolist())]
