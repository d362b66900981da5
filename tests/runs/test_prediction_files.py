"""Files of rows to predict and of what was predicted."""

import csv
import json

import pytest
from helpers.mistakes import require_line

from fedpeft.runs import prediction_files
from fedpeft.runs.prediction_files import read_queries, require_writable, write_predictions
from fedpeft.tasks.config import TaskConfig

ROWS = [{"id": 7, "text": 'a "b", c', "@where": "x:1"}, {"id": 8, "text": "d\ne", "@where": "x:2"}]
PREDICTIONS = [
    {"text": "", "label": "pos", "probability": 0.912345678},
    {"text": "", "label": "neg", "probability": 0.5},
]


@pytest.fixture
def card(monkeypatch):
    """A run whose task reads the column `text`, and `other` where it has pairs."""

    def make(pair=None):
        task = TaskConfig(source="x", text_pair=pair)
        monkeypatch.setattr(prediction_files, "read_card", lambda run, client: type("Card", (), {"task": task}))

    return make


def test_rows_are_read_by_the_columns_of_the_runs_task(card, tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text('{"text": "a", "other": "b"}\n{"text": "c", "other": "d"}')
    card()
    rows, texts, pairs = read_queries(tmp_path, "a", file)
    assert texts == ["a", "c"] and pairs is None and rows[1]["other"] == "d"
    card("other")
    assert read_queries(tmp_path, "a", file)[1:] == (["a", "c"], ["b", "d"])
    card("othr")
    require_line(lambda: read_queries(tmp_path, "a", file), "d.jsonl:1: no column 'othr', did you mean 'other'?")
    file.write_text('{"text": "a"}\n{"text": " "}')
    card()
    require_line(lambda: read_queries(tmp_path, "a", file), "d.jsonl:2: expected a text in column 'text'")


def test_rows_come_back_in_their_order_with_two_columns_more(tmp_path):
    write_predictions(tmp_path / "p.csv", ROWS, PREDICTIONS)
    with (tmp_path / "p.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "text", "prediction", "probability"],
            ["7", 'a "b", c', "pos", "0.912346"],
            ["8", "d\ne", "neg", "0.5"],
        ]
    write_predictions(tmp_path / "p.jsonl", ROWS, [{"number": 2.5}, {"written": "x"}])
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == [2.5, "x"] and "@where" not in lines[0]


def test_what_cannot_be_written_is_told_before_anything_is_predicted(tmp_path):
    require_line(lambda: require_writable(tmp_path / "p.txt"), "written as .csv or .jsonl, received 'p.txt'")
    require_line(lambda: require_writable(tmp_path / "none" / "p.csv"), "--out:", "in a folder that is")
    rows = [{"text": "a", "prediction": "mine", "@where": "d.csv:2"}]
    require_line(
        lambda: write_predictions(tmp_path / "p.csv", rows, PREDICTIONS[:1]), "d.csv:2", "'prediction' already"
    )
    assert not (tmp_path / "p.csv").exists()
