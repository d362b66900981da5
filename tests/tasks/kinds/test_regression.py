"""Regression: numbers are read, learned and scored by correlation."""

import json

import pytest
import torch
import yaml
from helpers.heads import TableModel, WordTokenizer

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.predict import predict
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Padding, collate
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds import make_task
from fedpeft.tasks.kinds.regression import Regression
from fedpeft.tasks.labels import LabelIndex

PADDING = Padding(0, "right")
MODEL = TableModel(torch.tensor([[7.0], [0.0], [0.0], [1.0], [-2.0]]))  # 3: good, 4: bad
CONFIG = TaskConfig(source="rows.jsonl", kind="regression")


@pytest.fixture
def task():
    return make_task(CONFIG, ["regression"], WordTokenizer("good bad"), 8)


@pytest.fixture
def encoded(task):
    return task.encode([Example("good", 0, value=1.5), Example("bad good", 0, value=-3.0), Example("bad", 0, value=-2)])


def test_an_example_has_the_value_of_the_label_column():
    row = {"text": "good", "label": "-1.5", "@where": "a.csv:2"}
    assert Regression.make_example(CONFIG, row, LabelIndex([], "")) == Example("good", 0, value=-1.5)
    assert Regression.list_labels(CONFIG, {"train": [row]}) == ["regression"]  # dealt without looking at the value


def test_losses_are_squared_errors(task, encoded):
    batch = collate(encoded, PADDING)
    assert batch["labels"].tolist() == [1.5, -3.0, -2.0]
    assert task.losses(MODEL, batch).tolist() == [0.25, 4.0, 0.0]


def test_scores_are_correlations_over_all_examples(task, encoded):
    scores = task.scores(MODEL, encoded * 20, PADDING)  # two batches
    assert scores["loss"] == pytest.approx(4.25 / 3) and scores["examples"] == 60
    predictions, values = torch.tensor([1.0, -1.0, -2.0]), torch.tensor([1.5, -3.0, -2.0])
    assert scores["pearson"] == pytest.approx(float(torch.corrcoef(torch.stack([predictions, values]))[0, 1]))
    assert task.metric == "correlation"


def test_a_prediction_is_a_number(task, encoded):
    assert task.predict(MODEL, encoded, PADDING) == [{"number": 1.0}, {"number": -1.0}, {"number": -2.0}]


@pytest.fixture
def file(tmp_path, tiny_model):
    words = ["good", "great", "bad", "poor", "film", "plane"]
    rows = [
        {"text": f"{a} {b} {c}", "label": 2.0 * [a, b, c].count("good") - [a, b, c].count("bad")}
        for a in words for b in words for c in words
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "name": "numbers",
        "model": {"name": str(tiny_model), "max_length": 8},
        "task": {"source": "rows.jsonl", "kind": "regression"},
        "partition": {"kind": "iid", "clients": 2},
        "training": {"rounds": 4, "batch_size": 8},
        "methods": {"fedit": {"lr": 1e-2}},
    }
    path = tmp_path / "numbers.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_federation_learns_numbers(file, tmp_path):
    result = start(RunSpec(load_experiment(file), "fedit", 0, None, tmp_path), tmp_path / "run", RunCallback())
    assert result["metric"] == "correlation"
    assert result["test"]["deployed"]["by_client"] > 0.5
    low, high = predict(tmp_path / "run", "client-0", ["bad bad bad", "good good good"])
    assert low["number"] < high["number"]


def test_a_label_that_is_no_number_is_one_line(file, tmp_path):
    rows = (tmp_path / "rows.jsonl").read_text().replace('"label": 2.0', '"label": "two"', 1)
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(UserError, match="expected a number as label, received 'two'"):
        start(RunSpec(load_experiment(file), "fedit", 0, None, tmp_path), tmp_path / "run", RunCallback())
