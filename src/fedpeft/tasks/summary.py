"""Which clients have which labels, as plain rows that any display can draw."""

from collections import Counter
from typing import Any

from fedpeft.tasks.examples import SPLITS, FederatedData


def label_distribution(data: FederatedData) -> list[dict[str, Any]]:
    """Per client its id, its examples by split, and the fraction of each label, by name, among those for training."""
    rows = []
    for client in data.clients:
        counts = Counter(example.label for example in client.train)
        fractions = {name: counts[i] / len(client.train) for i, name in enumerate(data.labels)}
        sizes = {split: len(getattr(client, split)) for split in SPLITS}
        rows.append({"client": client.id, **sizes, "labels": fractions})
    return rows
