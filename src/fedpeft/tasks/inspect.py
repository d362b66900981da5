"""What data look like before anyone trains: sizes, labels, skew, repeated texts, lengths. No model is loaded."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedpeft.tasks.examples import SPLITS, FederatedData
from fedpeft.tasks.formats import Row

WHOLE = 0.99  # fraction of the examples that the proposed length keeps whole [choice]
TOKENS_PER_WORD = 1.5  # an English word in a vocabulary of 30,000 pieces, with room to spare [choice]
STEP = 8  # proposed lengths are multiples of it
SHORTEST = 16


@dataclass(frozen=True)
class Sample:
    """One row: whose it is, its label's name where it has one, and its texts."""

    client: str
    label: str | None
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """By which repetitions are found: case and space do not count."""
        return "\x1f".join(" ".join(text.lower().split()) for text in self.texts)

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in self.texts)


@dataclass(frozen=True)
class Repetitions:
    """Rows whose text stands more than once: within one client, and at several; and pairs of clients that share one."""

    within: int
    across: int
    pairs: tuple[tuple[tuple[str, str], int], ...]  # the most first


@dataclass(frozen=True)
class Inspection:
    """The samples, and the length of each in tokens where a tokenizer was at hand, else None."""

    samples: Sequence[Sample]
    tokens: Sequence[int] | None = None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Rows by client, sorted by id."""
        return dict(sorted(Counter(sample.client for sample in self.samples).items()))

    @cached_property
    def labels_by_client(self) -> dict[str, Counter[str]]:
        """Counts of labels by client; empty where the rows have none."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in self.samples:
            if sample.label is not None:
                counts[sample.client][sample.label] += 1
        return dict(sorted(counts.items()))

    @cached_property
    def labels(self) -> Counter[str]:
        """Counts of labels, all clients together."""
        return sum(self.labels_by_client.values(), Counter())

    @property
    def lengths(self) -> Sequence[int]:
        """Of each sample, in tokens where they are known, else in words."""
        return [sample.words for sample in self.samples] if self.tokens is None else self.tokens

    @property
    def proposed_length(self) -> int:
        """A `max_length` that keeps WHOLE of the samples whole; from words a guess."""
        longest = get_quantile(self.lengths, WHOLE)
        tokens = longest if self.tokens is not None else TOKENS_PER_WORD * longest + 2  # two that begin and end a text
        return max(SHORTEST, STEP * math.ceil(tokens / STEP))

    def count_longer(self, length: int) -> int:
        """How many samples have more tokens, or words, than `length`."""
        return sum(value > length for value in self.lengths)


def read_samples(data: FederatedData) -> list[Sample]:
    """Every client's examples of all splits."""
    has_labels = len(data.labels) > 1
    return [
        Sample(client.id, data.labels[e.label] if has_labels else None, tuple(filter(None, (e.text, e.text_pair))))
        for client in data.clients
        for split in SPLITS
        for e in getattr(client, split)
    ]


def make_samples(rows: Sequence[Row], texts: Sequence[str], label: str | None, client: str | None) -> list[Sample]:
    """Rows as they stand in a file, by the names of their columns; what is no text counts as an empty one."""
    return [
        Sample(
            "all rows" if client is None else str(row[client]).strip(),
            None if label is None else str(row[label]).strip(),
            tuple(str(row[column] or "") for column in texts),
        )
        for row in rows
    ]


def compute_skew(labels_by_client: dict[str, Counter[str]]) -> float | None:
    """The mean distance of two clients' label distributions: 0 where all are alike, 1 where no two share a label.

    The distance is half the sum of absolute differences (total variation). Small clients differ by chance alone: 50
    rows each of two labels in equal parts come to about 0.06. None for fewer than two clients.
    """
    clients = [counts for counts in labels_by_client.values() if counts]
    if len(clients) < 2:
        return None
    total = 0.0
    for label in set().union(*clients):
        fractions = sorted(counts[label] / counts.total() for counts in clients)
        # Sorted, each is subtracted once for every smaller one: no pass over all pairs of clients.
        total += sum((2 * i - len(fractions) + 1) * fraction for i, fraction in enumerate(fractions))
    return total / (len(clients) * (len(clients) - 1))


def count_repetitions(samples: Sequence[Sample]) -> Repetitions:
    """Rows beyond the first of each text within a client, rows of texts that several clients have, and which do."""
    clients_by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        clients_by_text[sample.key][sample.client] += 1
    shared = [counts for counts in clients_by_text.values() if len(counts) > 1]
    pairs: Counter[tuple[str, str]] = Counter()
    for counts in shared:
        first, *others = sorted(counts)
        pairs.update((first, other) for other in others[:10])
    within = sum(counts.total() - len(counts) for counts in clients_by_text.values())
    return Repetitions(within, sum(counts.total() for counts in shared), tuple(pairs.most_common()))


def get_quantile(values: Sequence[int], fraction: float) -> int:
    """The smallest of the values that at least `fraction` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def make_histogram(values: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """Counts by length: (first, last, how many), bins of equal width up to the 99th percentile, the last one open."""
    low, high = min(values), max(get_quantile(values, WHOLE), min(values))
    width = max(1, math.ceil((high - low + 1) / bins))
    counts = Counter(min((value - low) // width, bins - 1) for value in values)
    ends = [low + width * (i + 1) - 1 for i in range(max(counts) + 1)]
    ends[-1] = max(ends[-1], max(values))
    return [(low + width * i, end, counts[i]) for i, end in enumerate(ends)]
