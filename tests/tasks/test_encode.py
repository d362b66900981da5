import pytest
import torch

from fedpeft.tasks.encode import Encoded, Padding, make_batches
from fedpeft.tasks.metrics import classification_scores

ROWS = [Encoded(tuple(range(1, 2 + i * 7 % 11)), i % 3) for i in range(50)]


def draw(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shuffle", [None, 0])
def test_every_row_is_in_one_batch_padded_on_its_side(side, shuffle):
    seen = []
    for batch in make_batches(ROWS, 8, Padding(99, side), None if shuffle is None else draw(shuffle)):
        for ids, mask, label, at in zip(
            *(batch[k] for k in ("input_ids", "attention_mask", "labels", "rows")), strict=True
        ):
            row = ROWS[int(at)]
            assert tuple(ids[mask.bool()].tolist()) == row.input_ids
            assert int(label) == row.label
            assert (ids[~mask.bool()] == 99).all()
            edge = mask[-1] if side == "left" else mask[0]
            assert edge == 1
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]  # padded to the longest, no more
        seen += batch["rows"].tolist()
    assert sorted(seen) == list(range(50))


def test_shuffling_depends_on_the_generator_alone():
    def order(seed):
        return [batch["rows"].tolist() for batch in make_batches(ROWS, 8, Padding(0, "right"), draw(seed))]

    assert order(1) == order(1) != order(2)


def test_evaluation_goes_from_long_to_short():
    lengths = [batch["input_ids"].shape[1] for batch in make_batches(ROWS, 8, Padding(0, "right"))]
    assert lengths == sorted(lengths, reverse=True)


def test_batches_of_like_length_are_padded_little():
    def padding(rows, seed):
        return sum(
            int((b["attention_mask"] == 0).sum()) for b in make_batches(rows, 8, Padding(0, "right"), draw(seed))
        )

    long = ROWS * 4
    assert padding(long, 0) < 0.2 * sum(len(row.input_ids) for row in long)


def test_scores_by_hand():
    scores = classification_scores([0, 1, 1, 0], [0, 1, 0, 0], 2)
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["matthews"] == pytest.approx((1 * 2 - 1 * 0) / (2 * 1 * 3 * 2) ** 0.5)


def test_scores_of_one_class_are_defined():
    assert classification_scores([1, 1], [1, 1], 3) == {
        "accuracy": 1.0, "f1": 1.0, "macro_f1": 1.0, "matthews": 0.0,
    }  # fmt: skip
