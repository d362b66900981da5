"""What encoders' kinds of task share: texts cut at their end, logits batch by batch."""

import pytest
import torch
from helpers.heads import TableModel, WordTokenizer

from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds import find_kind, make_task
from fedpeft.tasks.kinds.common import encoder


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_encoders_need_every_text_and_cut_its_end(kind):
    kind = find_kind(kind)
    assert not kind.is_decoder and not kind.pair_is_optional and kind.default_max_length == 64
    assert kind.cut_loses == "a text loses its end"


def test_texts_are_cut_to_the_length_given():
    task = make_task(TaskConfig(source="rows.jsonl"), ["0", "1"], WordTokenizer("a b c d"), 4)
    rows = task.encode([Example("a b c d", 1), Example("a", 0)])
    assert [(row.input_ids, row.label, row.is_cut) for row in rows] == [((1, 3, 4, 5), 1, True), ((1, 3, 2), 0, False)]
    (pair,) = task.encode([Example("a", 0, "b")])
    assert pair.input_ids == (1, 3, 2, 4)


def test_logits_of_each_batch_stand_beside_its_labels():
    table = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    examples = [Encoded(tuple(range(1, 2 + i % 7)), i) for i in range(2 * encoder.BATCH + 3)]
    sizes, labels = [], []
    for logits, of_batch in encoder.iterate_logits(TableModel(table), examples, Padding(8, "right")):
        sizes.append(len(logits))
        labels += of_batch.tolist()
        for row, label in zip(logits, of_batch.tolist(), strict=True):
            torch.testing.assert_close(row, table[list(examples[label].input_ids)].sum(0))
    assert sizes == [encoder.BATCH, encoder.BATCH, 3]
    assert sorted(labels) == list(range(len(examples)))
