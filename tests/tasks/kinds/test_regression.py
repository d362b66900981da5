"""Regression: numbers are read, learned and scored by correlation."""

import json

import pytest
import yaml
from scipy.stats import pearsonr

from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.observer import NullObserver
from fedpeft.runs.predict import predict
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.metrics import regression_scores


def test_correlations_are_scipys_and_zero_where_there_is_none():
    said, true = [1.0, 2.5, 2.0, 4.0], [0.5, 2.0, 3.0, 5.0]
    scores = regression_scores(said, true)
    assert scores["pearson"] == pytest.approx(pearsonr(said, true).statistic)
    assert scores["spearman"] == pytest.approx(0.8)
    assert scores["correlation"] == pytest.approx((scores["pearson"] + 0.8) / 2)
    assert set(regression_scores([1.0, 1.0], [1.0, 2.0]).values()) == {0.0}
    assert set(regression_scores([1.0], [1.0]).values()) == {0.0}


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
    result = start(RunSpec(load_experiment(file), "fedit", 0, None, tmp_path), tmp_path / "run", NullObserver())
    assert result["metric"] == "correlation"
    assert result["test"]["personal"]["by_client"] > 0.5
    low, high = predict(tmp_path / "run", "client-0", ["bad bad bad", "good good good"])
    assert low["number"] < high["number"]


def test_a_label_that_is_no_number_is_one_line(file, tmp_path):
    rows = (tmp_path / "rows.jsonl").read_text().replace('"label": 2.0', '"label": "two"', 1)
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(UserError, match="expected a number as label, received 'two'"):
        start(RunSpec(load_experiment(file), "fedit", 0, None, tmp_path), tmp_path / "run", NullObserver())
