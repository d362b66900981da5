"""Examples to token ids, and token ids to batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedpeft.tasks.types import Example

POOL = 8  # batches whose rows are sorted by length together: more means less padding and less random batches


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example, special tokens included, and its label."""

    input_ids: tuple[int, ...]
    label: int


def encode(examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Encoded]:
    """Token ids, cut to `max_length`; of a pair the longer text is cut first."""
    if not examples:
        return []
    texts = [example.text for example in examples]
    pairs = None if examples[0].text_pair is None else [example.text_pair for example in examples]
    ids = tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"]
    return [Encoded(tuple(row), example.label) for row, example in zip(ids, examples, strict=True)]


def batches(
    rows: Sequence[Encoded], batch_size: int, pad_id: int, pad_side: str, shuffle: torch.Generator | None = None
) -> Iterator[dict[str, Tensor]]:
    """Batches padded to their longest row: input_ids and attention_mask (batch, length), labels and rows (batch,).

    Longest first where no generator is given (evaluation). With one, rows are shuffled, batches are made of rows of
    like length within pools of POOL batches, and the batches are shuffled again: little padding either way. `rows`
    holds each row's position in `rows`.
    """
    if shuffle is None:
        order = _by_length(rows, range(len(rows)))
    else:
        drawn = torch.randperm(len(rows), generator=shuffle).tolist()
        pool = POOL * batch_size
        order = [i for at in range(0, len(drawn), pool) for i in _by_length(rows, drawn[at : at + pool])]
    starts = list(range(0, len(order), batch_size))
    if shuffle is not None:
        starts = [starts[i] for i in torch.randperm(len(starts), generator=shuffle).tolist()]
    for start in starts:
        chosen = order[start : start + batch_size]
        yield _padded([rows[i] for i in chosen], pad_id, pad_side) | {"rows": torch.tensor(chosen)}


def _by_length(rows: Sequence[Encoded], chosen: Sequence[int]) -> list[int]:
    return sorted(chosen, key=lambda i: -len(rows[i].input_ids))


def _padded(rows: Sequence[Encoded], pad_id: int, pad_side: str) -> dict[str, Tensor]:
    length = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)  # (batch, length)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        size = len(row.input_ids)
        span = slice(length - size, length) if pad_side == "left" else slice(0, size)
        ids[i, span] = torch.tensor(row.input_ids)
        mask[i, span] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row.label for row in rows])}
