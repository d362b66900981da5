"""Examples as token ids, and the batches that are made of them."""

from collections import Counter

import pytest
import torch
from helpers.decoding import PADDING as LEFT
from helpers.heads import WordTokenizer

from fedpeft.tasks.encode import (
    IGNORE,
    POOL,
    Encoded,
    Padding,
    collate,
    count_labels,
    encode,
    make_batches,
    make_token_labels,
    pad_rows,
    sort_by_length,
)
from fedpeft.tasks.examples import Example

RIGHT = Padding(0, "right")
EXAMPLES = [Encoded((100 + i, *range(1, 1 + i * 7 % 11)), i % 3) for i in range(50)]  # the first token tells them apart


def draw(seed):
    return torch.Generator().manual_seed(seed)


def list_order(seed=None, examples=EXAMPLES, size=8):
    """The examples' numbers, batch by batch."""
    shuffle = None if seed is None else draw(seed)
    return [(b["input_ids"][:, 0] - 100).tolist() for b in make_batches(examples, size, RIGHT, shuffle)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shuffle", [None, 0])
def test_every_example_is_in_one_batch_padded_on_its_side(side, shuffle):
    seen = []
    for batch in make_batches(EXAMPLES, 8, Padding(99, side), None if shuffle is None else draw(shuffle)):
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}
        for ids, mask, label in zip(*batch.values(), strict=True):
            real = tuple(ids[mask.bool()].tolist())
            example = EXAMPLES[real[0] - 100]
            assert real == example.input_ids
            assert int(label) == example.label
            assert (ids[~mask.bool()] == 99).all()
            edge = mask[-1] if side == "left" else mask[0]
            assert edge == 1
            seen.append(real[0] - 100)
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]  # padded to the longest, no more
    assert sorted(seen) == list(range(50))


def test_the_seed_decides_the_order():
    assert list_order(1) == list_order(1) != list_order(2)
    assert Counter(map(len, list_order(1))) == {8: 6, 2: 1}


def test_evaluation_goes_from_long_to_short():
    lengths = [EXAMPLES[i].length for batch in list_order() for i in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_batches_of_like_length_are_padded_little():
    examples = EXAMPLES * 4
    for seed in (None, 0):
        batches = make_batches(examples, 8, RIGHT, None if seed is None else draw(seed))
        padding = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
        assert padding < 0.2 * sum(example.length for example in examples)


def test_examples_are_sorted_within_pools_only():
    """Sorted all together, examples of unlike lengths would meet the same others in every epoch."""
    examples = [Encoded((100 + i, *range(i)), 0) for i in range(4 * POOL)]  # two pools of batches of two
    first, second = ({frozenset(batch) for batch in list_order(seed, examples, 2)} for seed in (0, 1))
    assert len(first & second) < len(first) / 2


def test_sorting_keeps_the_order_of_equal_lengths():
    items = [Encoded((1,) * n, 0) for n in (2, 3, 2, 3)]
    assert sort_by_length(items, [3, 2, 1, 0]) == [3, 1, 2, 0]


def test_plain_texts_and_pairs_are_cut():
    tokenizer = WordTokenizer("a b c")
    assert encode([], tokenizer, 4) == []
    (text, cut), (pair,) = (
        encode([Example("a", 2), Example("a b c", 0)], tokenizer, 4),
        encode([Example("a", 0, "b")], tokenizer, 8),
    )
    assert (text.input_ids, text.label, text.is_cut) == ((1, 3, 2), 2, False)
    assert (cut.input_ids, cut.is_cut) == ((1, 3, 4, 5), True)
    assert (pair.input_ids, pair.is_cut) == ((1, 3, 2, 4, 2), False)


def test_rows_are_padded_to_the_longest():
    batch = pad_rows([(5, 6, 7), (8,)], Padding(9, "left"))
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert pad_rows([(5, 6, 7), (8,)], Padding(9, "right"))["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_of_tokens_are_the_targets_alone(side):
    padding = Padding(0, side)
    examples = [Encoded((5, 6), 0, (7, 8)), Encoded((5,), 0, (9,))]
    batch = collate(examples, padding)
    rows = [[IGNORE, IGNORE, 7, 8], [IGNORE, IGNORE, IGNORE, 9] if side == "left" else [IGNORE, 9, IGNORE, IGNORE]]
    assert batch["labels"].tolist() == rows
    assert count_labels(batch) == 3
    parts = [(2, (7, 8)), (1, (9,))]
    assert torch.equal(make_token_labels(parts, pad_rows([(5, 6, 7, 8), (5, 9)], padding), padding), batch["labels"])


def test_labels_of_whole_examples_count_once_each():
    batch = collate([Encoded((1, 2), 3), Encoded((1,), 4)], RIGHT)
    assert batch["labels"].tolist() == [3, 4] and count_labels(batch) == 2


def test_training_batches_hold_the_targets_of_their_examples(encoded):
    (batch,) = make_batches(encoded, 8, LEFT, draw(0))
    seen = set()
    for labels, ids, mask in zip(batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True):
        target = tuple(labels[labels != IGNORE].tolist())
        prompt = tuple(ids[mask.bool()].tolist())[: -len(target)]
        seen.add((prompt, target))
    assert seen == {(row.input_ids, row.target) for row in encoded}
