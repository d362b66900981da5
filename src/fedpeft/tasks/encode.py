"""Examples to token ids, and token ids to batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedpeft.tasks.types import Example


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

    Shuffled by the generator, or longest first where none is given (evaluation: little padding); `rows` holds each
    row's position in `rows`.
    """
    if shuffle is None:
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    else:
        order = torch.randperm(len(rows), generator=shuffle).tolist()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield _padded([rows[i] for i in chosen], pad_id, pad_side) | {"rows": torch.tensor(chosen)}


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
