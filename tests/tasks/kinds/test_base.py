"""What every kind of task does unless it says otherwise."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds.classification import Classification
from fedpeft.tasks.kinds.generation import Generation
from fedpeft.tasks.kinds.regression import Regression

PAIRS = TaskConfig(source="rows.jsonl", text_pair="other")


def make_row(other):
    return {"text": "one", "other": other, "@where": "a.csv:2"}


def test_a_second_text_is_read_where_the_task_has_pairs():
    assert Regression.read_texts(TaskConfig(source="rows.jsonl"), make_row("two")) == ("one", None)
    assert Regression.read_texts(PAIRS, make_row("two")) == ("one", "two")


def test_a_second_text_may_be_empty_for_decoders_alone():
    for other in (None, ""):
        assert Generation.read_texts(PAIRS, make_row(other)) == ("one", None)
        with pytest.raises(UserError, match=r"^a\.csv:2: expected a text in column 'other', received"):
            Classification.read_texts(PAIRS, make_row(other))


def test_a_kind_without_labels_deals_rows_blindly_and_finds_nothing_odd():
    assert Regression.list_labels(TaskConfig(source="rows.jsonl", kind="regression"), {}) == ["regression"]
    assert Regression.find_problems(["regression"], [1]) == []
    assert Regression.check_clients([], ["regression"]) is None


def test_the_metric_is_the_first_of_the_kinds_unless_the_task_says_otherwise():
    config = TaskConfig(source="rows.jsonl", kind="regression")
    assert Regression(config, ["regression"], None, 8).metric == "correlation"
    config = TaskConfig(source="rows.jsonl", kind="regression", metric="spearman")
    assert Regression(config, ["regression"], None, 8).metric == "spearman"
