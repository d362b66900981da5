"""Which client gets which training rows, and the rows of other splits in the same label fractions.

Works on labels and row positions only. Every kind of partition ends, whatever is asked.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig

Positions = list[list[int]]  # of rows, by client


def make_generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that one draw never shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def partition_examples(
    labels: Sequence[int], clients: int, config: PartitionConfig, held_out: float, seed: int
) -> Positions:
    """Row positions for each of `clients`, by config.kind: iid, mixed, dirichlet, shards or quantity.

    Every row goes to exactly one client, and each has config.min_size left after a fraction `held_out` of its rows
    becomes validation and test rows. Raises UserError when the rows cannot serve that many clients.
    """
    count = len(labels)
    least = math.ceil((config.min_size + 2 * (held_out > 0)) / (1 - held_out))  # 2: either split may round up by one
    if count < clients * least:
        ways = ["give more rows"]
        ways += [f"ask for at most {count // least} clients"] * (count >= least)
        ways += ["lower min_size"] * (config.min_size > 2)  # it may not go below 2
        raise UserError(
            f"partition: {count} rows cannot leave {clients} clients {config.min_size} training rows each (each needs "
            f"{least} before its splits are carved out); {' or '.join(ways)}"
        )
    generator = make_generator(seed, f"partition {config.kind}")
    if config.kind == "dirichlet":
        fractions = generator.dirichlet([config.alpha] * clients, size=max(labels) + 1)  # (labels, clients)
        parts = _partition_by_label(labels, fractions, generator)
    elif config.kind == "shards":
        parts = _partition_shards(labels, clients, config.shards_per_client, generator)
    elif config.kind == "quantity":
        parts = _slice(generator.permutation(count).tolist(), generator.dirichlet([config.alpha] * clients))
    else:
        parts = _slice(generator.permutation(count).tolist(), np.full(clients, 1 / clients))
    return _top_up(parts, least, generator)


def partition_by_fractions(labels: Sequence[int], fractions: np.ndarray, seed: int, split: str) -> Positions:
    """Rows of another split in the label fractions (labels, clients) of the training rows; each client has at least
    one. Raises UserError where there are fewer rows than clients."""
    clients = fractions.shape[1]
    if len(labels) < clients:
        raise UserError(f"partition: {len(labels)} {split} rows cannot serve {clients} clients; ask for fewer clients")
    generator = make_generator(seed, f"follow {split}")
    return _top_up(_partition_by_label(labels, fractions, generator), 1, generator)


def compute_label_fractions(parts: Positions, labels: Sequence[int], num_labels: int) -> np.ndarray:
    """(labels, clients): the fraction of each label's rows that each client has; each label's sum to 1."""
    counts = np.zeros((num_labels, len(parts)))
    for client, rows in enumerate(parts):
        for row in rows:
            counts[labels[row], client] += 1
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / len(parts))


def _partition_by_label(labels: Sequence[int], fractions: np.ndarray, generator: np.random.Generator) -> Positions:
    """Each label's rows, in a random order, cut among the clients by that label's fractions (labels, clients)."""
    parts: Positions = [[] for _ in range(fractions.shape[1])]
    for label, of_label in enumerate(fractions):
        rows = generator.permutation([i for i, value in enumerate(labels) if value == label]).astype(int).tolist()
        for part, piece in zip(parts, _slice(rows, of_label), strict=True):
            part.extend(piece)
    return parts


def _slice(rows: list[int], fractions: np.ndarray) -> Positions:
    """Consecutive pieces whose sizes follow the fractions; every row is in one."""
    ends = np.round(np.cumsum(fractions) * len(rows)).astype(int)
    ends[-1] = len(rows)
    starts = [0, *ends[:-1]]
    return [rows[start:end] for start, end in zip(starts, ends, strict=True)]


def _partition_shards(labels: Sequence[int], clients: int, shards: int, generator: np.random.Generator) -> Positions:
    """Rows sorted by label, cut into clients x shards pieces, dealt at random (McMahan et al., arXiv 1602.05629)."""
    shuffled = generator.permutation(len(labels)).tolist()
    ordered = sorted(shuffled, key=lambda row: labels[row])
    pieces = _slice(ordered, np.full(clients * shards, 1 / (clients * shards)))
    order = generator.permutation(len(pieces)).tolist()
    return [[row for p in order[c * shards : (c + 1) * shards] for row in pieces[p]] for c in range(clients)]


def _top_up(parts: Positions, least: int, generator: np.random.Generator) -> Positions:
    """Moves random rows from the largest client to any that has too few: always ends, where redrawing may not."""
    parts = [list(part) for part in parts]
    for part in parts:
        while len(part) < least:
            largest = max(parts, key=len)
            part.append(largest.pop(int(generator.integers(len(largest)))))
    return parts
