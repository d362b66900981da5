"""Who gets which training rows, and the rows of other splits in the same shares. Every kind ends, whatever is asked."""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig

Parts = list[list[int]]  # row positions by client


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that one draw never shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def partition_examples(labels: Sequence[int], clients: int, config: PartitionConfig, carved: float, seed: int) -> Parts:
    """Row positions for each of `clients`, by config.kind: iid, mixed, dirichlet, shards or quantity.

    Every row goes to exactly one client, and everyone has config.min_size left after a share `carved` of its rows
    becomes validation and test rows. Raises UserError when the rows cannot serve that many clients.
    """
    count = len(labels)
    least = math.ceil((config.min_size + 2 * (carved > 0)) / (1 - carved))  # 2: either split may round up by one
    if count < clients * least:
        ways = ["give more rows"]
        ways += [f"ask for at most {count // least} clients"] * (count >= least)
        ways += ["lower min_size"] * (config.min_size > 2)  # it may not go below 2
        raise UserError(
            f"partition: {count} rows cannot leave {clients} clients {config.min_size} training rows each (each needs "
            f"{least} before its splits are carved out); {' or '.join(ways)}"
        )
    draw = generator(seed, f"partition {config.kind}")
    if config.kind == "dirichlet":
        parts = _by_label(labels, draw.dirichlet([config.alpha] * clients, size=max(labels) + 1), draw)
    elif config.kind == "shards":
        parts = _shards(labels, clients, config.shards_per_client, draw)
    elif config.kind == "quantity":
        parts = _cut(draw.permutation(count).tolist(), draw.dirichlet([config.alpha] * clients))
    else:
        parts = _cut(draw.permutation(count).tolist(), np.full(clients, 1 / clients))
    return _top_up(parts, least, draw)


def partition_by_shares(labels: Sequence[int], shares: np.ndarray, seed: int, split: str) -> Parts:
    """Rows of another split in the shares (labels, clients) of the training rows; everyone has at least one."""
    clients = shares.shape[1]
    if len(labels) < clients:
        raise UserError(f"partition: {len(labels)} {split} rows cannot serve {clients} clients; ask for fewer clients")
    draw = generator(seed, f"follow {split}")
    return _top_up(_by_label(labels, shares, draw), 1, draw)


def count_label_shares(parts: Parts, labels: Sequence[int], num_labels: int) -> np.ndarray:
    """(labels, clients): which share of each label's rows each client holds; rows sum to 1."""
    counts = np.zeros((num_labels, len(parts)))
    for client, rows in enumerate(parts):
        for row in rows:
            counts[labels[row], client] += 1
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / len(parts))


def _by_label(labels: Sequence[int], shares: np.ndarray, draw: np.random.Generator) -> Parts:
    parts: Parts = [[] for _ in range(shares.shape[1])]
    for label, share in enumerate(shares):
        rows = draw.permutation([i for i, own in enumerate(labels) if own == label]).astype(int).tolist()
        for part, piece in zip(parts, _cut(rows, share), strict=True):
            part.extend(piece)
    return parts


def _cut(rows: list[int], share: np.ndarray) -> Parts:
    """Consecutive pieces whose sizes follow the shares; every row is in one."""
    ends = np.round(np.cumsum(share) * len(rows)).astype(int)
    ends[-1] = len(rows)
    starts = [0, *ends[:-1]]
    return [rows[start:end] for start, end in zip(starts, ends, strict=True)]


def _shards(labels: Sequence[int], clients: int, each: int, draw: np.random.Generator) -> Parts:
    """Rows sorted by label, cut into clients x each pieces, dealt at random (McMahan et al., arXiv 1602.05629)."""
    shuffled = draw.permutation(len(labels)).tolist()
    ordered = sorted(shuffled, key=lambda row: labels[row])
    pieces = _cut(ordered, np.full(clients * each, 1 / (clients * each)))
    order = draw.permutation(len(pieces)).tolist()
    return [[row for p in order[c * each : (c + 1) * each] for row in pieces[p]] for c in range(clients)]


def _top_up(parts: Parts, least: int, draw: np.random.Generator) -> Parts:
    """Moves random rows from the largest client to any that has too few: always ends, where redrawing may not."""
    parts = [list(part) for part in parts]
    for part in parts:
        while len(part) < least:
            largest = max(parts, key=len)
            part.append(largest.pop(int(draw.integers(len(largest)))))
    return parts
