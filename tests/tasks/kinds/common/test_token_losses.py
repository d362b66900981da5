"""The loss of targets, against one example at a time with all logits, in float64."""

import pytest
import torch
from helpers.decoding import PADDING, compute_loss

from fedpeft.tasks.encode import collate, count_labels
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses, get_target_logits


def test_the_loss_is_that_of_the_targets_tokens_alone(decoder, encoded):
    batch = collate(encoded, PADDING)
    assert count_labels(batch) == sum(len(row.target) for row in encoded) == 12  # three words and the end, three times
    expected = [compute_loss(decoder, row.input_ids, row.target) for row in encoded]
    assert compute_token_losses(decoder, batch).tolist() == pytest.approx(expected, rel=1e-5)


def test_loreft_edits_the_prompt_and_not_the_target(decoder, encoded):
    """The target's labels tell where the prompt ends: `labels` in the model's own forward do the same."""
    batch = collate(encoded, PADDING)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    position_ids = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    loss = decoder.model(**inputs, labels=batch["labels"], position_ids=position_ids).loss
    torch.testing.assert_close(
        (compute_token_losses(decoder, batch).sum() / 12).double(), loss.double(), rtol=1e-5, atol=1e-6
    )


def test_logits_are_computed_for_the_last_columns_only(decoder, encoded):
    logits, labels = get_target_logits(decoder, collate(encoded, PADDING))
    assert logits.shape[:2] == labels.shape == (3, 4)
    assert logits.dtype == torch.float32
    assert [tuple(row.tolist()) for row in labels] == [row.target for row in encoded]
