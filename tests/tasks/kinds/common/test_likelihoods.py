"""Likelihoods of choices, against one choice at a time with all logits, in float64."""

from dataclasses import replace

import pytest
from helpers.decoding import PADDING, compute_loss

from fedpeft.tasks.kinds.common import likelihoods
from fedpeft.tasks.kinds.common.likelihoods import compute_likelihoods


def test_a_choices_likelihood_is_the_sum_over_its_tokens(decoder, encoded):
    scores = compute_likelihoods(decoder, encoded, PADDING)
    for row, of_row in zip(encoded, scores, strict=True):
        assert of_row == pytest.approx([-compute_loss(decoder, row.input_ids, c) for c in row.choices], rel=1e-5)
    assert [len(of_row) for of_row in scores] == [2, 2, 3]


def test_choices_that_differ_in_their_last_token_share_a_forward_pass(decoder, encoded, monkeypatch):
    widths = []
    log_probabilities = likelihoods._log_probabilities

    def count(model, contexts, padding):
        widths.append(len(contexts))
        return log_probabilities(model, contexts, padding)

    monkeypatch.setattr(likelihoods, "_log_probabilities", count)
    compute_likelihoods(decoder, encoded, PADDING)
    assert widths == [4]  # seven choices: "answer is" once for each example, and "answer is a"


def test_more_texts_than_one_batch_holds_keep_their_order(decoder, encoded, monkeypatch):
    expected = compute_likelihoods(decoder, encoded, PADDING)
    monkeypatch.setattr(likelihoods, "BATCH", 1)
    for of_row, alone in zip(expected, compute_likelihoods(decoder, encoded, PADDING), strict=True):
        assert of_row == pytest.approx(alone, rel=1e-5)


def test_a_choice_of_one_token_is_read_behind_the_prompt(decoder, encoded):
    (one_token,) = [replace(encoded[1], choices=((5,), (6,), (5, 6)))]
    ((first, second, longer),) = compute_likelihoods(decoder, [one_token], PADDING)
    expected = [-compute_loss(decoder, one_token.input_ids, choice) for choice in one_token.choices]
    assert [first, second, longer] == pytest.approx(expected, rel=1e-5)
