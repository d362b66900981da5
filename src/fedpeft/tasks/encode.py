"""Examples as token ids, and batches of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fedpeft.tasks.examples import Example

POOL = 8  # batches whose examples are sorted by length together: more means less padding and less random batches
IGNORE = -100  # a token label that does not count: the field's convention
Batch = dict[str, Tensor]  # input_ids, attention_mask (batch, length) and labels (batch,) or (batch, length)


@dataclass(frozen=True)
class Padding:
    """How the tokenizer pads: the id, and the side ("left" or "right")."""

    id: int
    side: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example, special tokens included, and its label; for a decoder the prompt and what follows."""

    input_ids: tuple[int, ...]
    label: int | float
    target: tuple[int, ...] = ()  # what a decoder learns to write after input_ids, end token included
    choices: tuple[tuple[int, ...], ...] = ()  # what it may write; the label is the right one's
    names: tuple[str, ...] = ()  # of the choices
    answer: str = ""
    is_cut: bool = False  # whether something was left out for its length; of plain texts those that reach it count

    @property
    def length(self) -> int:
        """Tokens of the text, or of prompt and target."""
        return len(self.input_ids) + len(self.target)


def encode(examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Encoded]:
    """Token ids of plain texts or pairs, cut to `max_length`; of a pair the longer text is cut first."""
    if not examples:
        return []
    texts = [example.text for example in examples]
    pairs = None if examples[0].text_pair is None else [example.text_pair for example in examples]
    ids = tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"]
    return [
        Encoded(tuple(row), example.label, is_cut=len(row) >= max_length)
        for row, example in zip(ids, examples, strict=True)
    ]


def make_batches(
    examples: Sequence[Encoded], batch_size: int, padding: Padding, shuffle: torch.Generator | None = None
) -> Iterator[Batch]:
    """Batches padded to their longest example: input_ids and attention_mask (batch, length), and labels.

    Longest first where no generator is given (evaluation). With one, examples are shuffled, batches are made of
    examples of like length within pools of POOL batches, and the batches are shuffled again: little padding either way.
    Labels are (batch,), or (batch, length) for decoders, where all but the target's tokens are IGNORE.
    """
    if shuffle is None:
        order = sort_by_length(examples, range(len(examples)))
    else:
        drawn = torch.randperm(len(examples), generator=shuffle).tolist()
        pool = POOL * batch_size
        order = [i for at in range(0, len(drawn), pool) for i in sort_by_length(examples, drawn[at : at + pool])]
    starts = list(range(0, len(order), batch_size))
    if shuffle is not None:
        starts = [starts[i] for i in torch.randperm(len(starts), generator=shuffle).tolist()]
    for start in starts:
        yield collate([examples[i] for i in order[start : start + batch_size]], padding)


class _HasLength(Protocol):
    @property
    def length(self) -> int: ...


T = TypeVar("T", bound=_HasLength)


def sort_by_length(items: Sequence[T], positions: Sequence[int]) -> list[int]:
    """The positions, that of the longest item first; of equal ones the earlier."""
    return sorted(positions, key=lambda i: -items[i].length)


def collate(examples: Sequence[Encoded], padding: Padding) -> Batch:
    """One batch of the examples in their order, with labels."""
    batch = pad_rows([example.input_ids + example.target for example in examples], padding)
    if not any(example.target for example in examples):
        return batch | {"labels": torch.tensor([example.label for example in examples])}
    targets = [(len(example.input_ids), example.target) for example in examples]
    return batch | {"labels": make_token_labels(targets, batch, padding)}


def make_token_labels(targets: Sequence[tuple[int, tuple[int, ...]]], batch: Batch, padding: Padding) -> Tensor:
    """(batch, length): the ids of each row's target, IGNORE before them and on padding.

    `targets` are pairs of how many tokens stand before the target, and its ids.
    """
    labels = torch.full_like(batch["input_ids"], IGNORE)
    for row, (before, ids) in enumerate(targets):
        end = labels.shape[1] if padding.side == "left" else before + len(ids)
        labels[row, end - len(ids) : end] = torch.tensor(ids, dtype=torch.long)
    return labels


def pad_rows(rows: Sequence[Sequence[int]], padding: Padding) -> Batch:
    """input_ids and attention_mask, (rows, length of the longest)."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), padding.id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        columns = slice(length - len(row), length) if padding.side == "left" else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
        mask[i, columns] = 1
    return {"input_ids": ids, "attention_mask": mask}


def count_labels(batch: Batch) -> int:
    """How many labels of a batch count: one for each example, or one for each token of the targets."""
    labels = batch["labels"]
    return len(labels) if labels.dim() == 1 else int((labels != IGNORE).sum())
