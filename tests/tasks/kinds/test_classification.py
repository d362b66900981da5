"""Classification: labels by name or by index, cross entropy, scores and predictions."""

import math

import pytest
import torch
from helpers.heads import TableModel, WordTokenizer

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Padding, collate
from fedpeft.tasks.examples import ClientData, Example
from fedpeft.tasks.kinds import make_task
from fedpeft.tasks.kinds.classification import Classification
from fedpeft.tasks.labels import LabelIndex

PADDING = Padding(0, "right")
TABLE = [[9.0, 9.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]  # 3: good, 4: bad
MODEL = TableModel(torch.tensor(TABLE, dtype=torch.float64))


def make_row(**columns):
    return {"text": "good", "label": "yes", "@where": "a.csv:2"} | columns


def make_config(**keys):
    return TaskConfig(source="rows.jsonl", **keys)


def make_table(*labels, split="train"):
    return {split: [make_row(label=label) for label in labels]}


def test_labels_are_sorted_as_numbers_where_all_are():
    assert Classification.list_labels(make_config(), make_table("b", "a", "b")) == ["a", "b"]
    assert Classification.list_labels(make_config(), make_table(10, 9.0, "-1")) == ["-1", "9", "10"]


def test_labels_of_test_rows_alone_do_not_count():
    tables = make_table("a", "b") | make_table("c", split="validation") | make_table("d", split="test")
    assert Classification.list_labels(make_config(), tables) == ["a", "b", "c"]


def test_given_labels_keep_their_order():
    assert Classification.list_labels(make_config(labels=["z", "a"]), make_table("a")) == ["z", "a"]


def test_one_label_is_nothing_to_learn():
    with pytest.raises(UserError, match=r"column 'label' holds one value only \(a\); nothing to learn"):
        Classification.list_labels(make_config(), make_table("a", "a"))


def test_texts_and_numbers_are_no_labels():
    with pytest.raises(UserError, match="column 'label' holds 30 different values in 30 rows"):
        Classification.list_labels(make_config(), make_table(*(i + 1 / 16 for i in range(30))))


def test_a_gap_is_a_label_only_where_the_task_names_it():
    with pytest.raises(UserError, match=r"is 'nan', which stands for a missing value; .* or name it in task\.labels"):
        Classification.list_labels(make_config(), make_table("a", "nan", "b"))
    example = Classification.make_example(make_config(), make_row(label="nan"), LabelIndex(["a", "nan"], "unknown"))
    assert example.label == 1


def test_a_label_by_index_is_a_whole_number_within_the_names():
    config, labels = make_config(labels=["no", "yes"]), LabelIndex(["no", "yes"], "is unknown; known are")
    assert Classification.make_example(config, make_row(label=" 1 "), labels).label == 1
    for name in ("2", "-1", "²", "--1", "1.5", "9" * 30):
        with pytest.raises(UserError, match="is unknown; known are: no, yes"):
            Classification.make_example(config, make_row(label=name), labels)


def test_odd_labels_are_told_with_their_rows():
    (line,) = Classification.find_problems(["neg", "pos", "Pos"], [9, 8, 7])
    assert "'Pos' (7 rows), 'pos' (8 rows)" in line


def test_f1_needs_two_labels():
    with pytest.raises(UserError, match="f1 is of label 1 of two, received labels a, b, c; use macro_f1"):
        Classification.list_labels(make_config(metric="f1"), make_table("a", "b", "c"))
    with pytest.raises(UserError, match="received labels x; use macro_f1"):
        Classification.list_labels(make_config(metric="f1", labels=["x"]), make_table("x"))
    assert Classification.list_labels(make_config(metric="f1"), make_table("a", "b")) == ["a", "b"]


def test_an_example_has_the_index_of_its_label():
    labels = LabelIndex(["no", "yes"], "is unknown; known are")
    assert Classification.make_example(make_config(), make_row(), labels) == Example("good", 1)
    config = make_config(text_pair="other")
    assert Classification.make_example(config, make_row(other="bad"), labels) == Example("good", 1, "bad")
    with pytest.raises(UserError, match=r"^a\.csv:2: label 'maybe' is unknown; known are: no, yes$"):
        Classification.make_example(make_config(), make_row(label="maybe"), labels)


def test_an_index_stands_for_a_label_that_the_task_names():
    labels = LabelIndex(["no", "yes"], "is unknown")
    config = make_config(labels=["no", "yes"])
    assert Classification.make_example(config, make_row(label=1), labels).label == 1
    for keys, label in (({"labels": ["no", "yes"]}, 2), ({}, 1)):
        with pytest.raises(UserError, match="is unknown"):
            Classification.make_example(make_config(**keys), make_row(label=label), labels)
    swapped = LabelIndex(["1", "0"], "is unknown")  # names that look like indices are names
    assert Classification.make_example(make_config(labels=["1", "0"]), make_row(label=1), swapped).label == 0


def test_an_empty_second_text_is_refused():
    with pytest.raises(UserError, match="expected a text in column 'other', received ''"):
        Classification.make_example(make_config(text_pair="other"), make_row(other=""), LabelIndex(["yes"], ""))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_no_client_learns_is_refused(split):
    splits = {"train": (Example("a", 0),), "validation": (Example("b", 0),), "test": (Example("c", 0),)}
    clients = [ClientData("one", **splits), ClientData("two", **(splits | {split: (Example("d", 1),)}))]
    with pytest.raises(UserError, match=r"client 'two': label 'yes' is in its validation or test rows and in nobody's"):
        Classification.check_clients(clients, ["no", "yes"])
    learned = ClientData("three", **(splits | {"train": (Example("e", 1),)}))  # another client's training rows will do
    Classification.check_clients([*clients, learned], ["no", "yes"])


@pytest.fixture
def task():
    return make_task(make_config(), ["no", "yes"], WordTokenizer("good bad"), 8)


@pytest.fixture
def encoded(task):
    return task.encode([Example("good", 0), Example("bad bad", 1), Example("bad", 0)])


def test_losses_are_cross_entropies(task, encoded):
    losses = task.losses(MODEL, collate(encoded, PADDING))
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-4)), math.log(1 + math.exp(2))]
    assert losses.tolist() == pytest.approx(expected)


def test_scores_are_over_all_examples(task, encoded):
    scores = task.scores(MODEL, encoded * 20, PADDING)  # two batches
    assert scores["accuracy"] == pytest.approx(2 / 3) and scores["examples"] == 60
    assert scores["loss"] == pytest.approx(float(task.losses(MODEL, collate(encoded, PADDING)).mean()), rel=1e-5)
    assert {"f1", "macro_f1", "matthews"} < scores.keys()
    assert task.metric == "accuracy"


def test_a_prediction_is_the_likeliest_label(task, encoded):
    first, second, _ = task.predict(MODEL, encoded, PADDING)
    assert first == {"label": "no", "probability": pytest.approx(1 / (1 + math.exp(-1)))}
    assert second == {"label": "yes", "probability": pytest.approx(1 / (1 + math.exp(-4)))}
