"""Scores by hand, and where they are not defined."""

import pytest
from scipy.stats import pearsonr

from fedpeft.tasks.metrics import score_labels, score_numbers


def test_scores_of_labels_by_hand():
    scores = score_labels([0, 1, 1, 0], [0, 1, 0, 0], 2)
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx(2 / 3)  # of label 1: one right, one too many
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["matthews"] == pytest.approx((1 * 2 - 1 * 0) / (2 * 1 * 3 * 2) ** 0.5)


def test_f1_is_of_label_one_alone():
    assert score_labels([1, 0, 2], [1, 2, 0], 3)["f1"] == 1.0
    assert score_labels([0, 2], [0, 2], 3)["f1"] == 0.0  # it occurs in neither


def test_macro_f1_is_over_the_labels_that_occur():
    assert score_labels([0, 1], [0, 1], 5)["macro_f1"] == 1.0
    assert score_labels([2, 1], [0, 1], 5)["macro_f1"] == pytest.approx(1 / 3)  # 0 missed, 2 wrong, 1 right


def test_scores_of_one_class_are_defined():
    assert score_labels([1, 1], [1, 1], 3) == {"accuracy": 1.0, "f1": 1.0, "macro_f1": 1.0, "matthews": 0.0}


def test_correlations_are_scipys_and_zero_where_there_is_none():
    predictions, values = [1.0, 2.5, 2.0, 4.0], [0.5, 2.0, 3.0, 5.0]
    scores = score_numbers(predictions, values)
    assert scores["pearson"] == pytest.approx(pearsonr(predictions, values).statistic)
    assert scores["spearman"] == pytest.approx(0.8)
    assert scores["correlation"] == pytest.approx((scores["pearson"] + 0.8) / 2)
    for predictions, values in (([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 1.0]), ([1.0], [1.0])):
        assert score_numbers(predictions, values) == {"correlation": 0.0, "pearson": 0.0, "spearman": 0.0}
