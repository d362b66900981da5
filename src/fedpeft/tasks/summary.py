"""What clients have: labels and lengths, as plain rows and lines that any display can show."""

from collections import Counter
from typing import Any

from fedpeft.tasks.examples import SPLITS, Example, FederatedData

SHOWN = 12  # labels that a line counts


def label_distribution(data: FederatedData) -> list[dict[str, Any]]:
    """Per client its id, its examples by split, and the fraction of each label, by name, among those for training."""
    rows = []
    for client in data.clients:
        counts = Counter(example.label for example in client.train)
        fractions = {name: counts[i] / len(client.train) for i, name in enumerate(data.labels)}
        sizes = {split: len(getattr(client, split)) for split in SPLITS}
        rows.append({"client": client.id, **sizes, "labels": fractions})
    return rows


def describe_data(data: FederatedData, max_length: int) -> list[str]:
    """Lines with the rows of each label, all clients together, and how many examples are certainly cut."""
    examples = [example for client in data.clients for split in SPLITS for example in getattr(client, split)]
    lines = []
    if len(data.labels) > 1:
        counts = Counter(data.labels[example.label] for example in examples)
        shown = ", ".join(f"{name!r} {count}" for name, count in counts.most_common(SHOWN))
        lines.append(f"rows by label: {shown}" + f" and {len(counts) - SHOWN} labels more" * (len(counts) > SHOWN))
    long = sum(_count_words(example) > max_length for example in examples)
    if long:
        lines.append(
            f"{long} of {len(examples)} rows have more words than model.max_length={max_length}: these will be cut, "
            "and maybe others, as a word is one token or more"
        )
    return lines


def _count_words(example: Example) -> int:
    return sum(len(text.split()) for text in (example.text, example.text_pair, example.target) if text)
