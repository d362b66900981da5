"""Finished runs and comparisons as tables take them; what is damaged or not finished is one line."""

import json

import pytest
from helpers.mistakes import require_line
from helpers.result_files import make_result, write_run

from fedpeft.runs.finished import average_client_scores, read_finished

CLIENTS = ["a", "b"]


def make_whole(label, seed, **changes):
    """A result that holds all that `fedpeft run` writes."""
    result = make_result(label, seed, CLIENTS, 3)
    result["validation"] = {"3": {"by_client": 0.5, "worst_client": 0.4, "loss": 1.0}}
    for scores in result["test"].values():
        scores["loss"] = 1.0
    return result | changes


def write_whole_comparison(folder, *labels):
    runs = {label: [make_whole(label, seed) for seed in range(2)] for label in labels}
    (folder / "compare.json").write_text(json.dumps({"name": "mine", "seeds": [0, 1], "rows": [], "runs": runs}))
    return runs


def test_a_comparison_has_rows_computed_from_its_runs(tmp_path):
    runs = write_whole_comparison(tmp_path, "fedit", "local")
    for path in (tmp_path, tmp_path / "compare.json"):
        finished = read_finished(path)
        assert [row["label"] for row in finished["rows"]] == ["fedit", "local"] and finished["seeds"] == [0, 1]
        scores = [run["test"]["deployed"]["by_client"] for run in runs["fedit"]]
        assert finished["rows"][0]["deployed"]["mean"] == pytest.approx(sum(scores) / 2)


def test_a_run_is_a_comparison_of_one(tmp_path):
    write_run(tmp_path / "r", make_whole("fedit", 3), [])
    finished = read_finished(tmp_path / "r")
    assert (finished["name"], finished["seeds"], list(finished["runs"])) == ("r", [3], ["fedit"])


def test_what_is_none_is_not_finished_or_damaged_is_one_line(tmp_path):
    require_line(lambda: read_finished(tmp_path), "no run and no comparison at", "`fedpeft ls`")
    write_run(tmp_path / "c/fedit/lr0.005-seed0", make_whole("fedit", 0), [], finished=False)
    require_line(lambda: read_finished(tmp_path / "c"), "is not finished; the same `fedpeft compare` command goes on")
    require_line(lambda: read_finished(tmp_path / "c/fedit/lr0.005-seed0"), "is not finished", "fedpeft resume")
    (tmp_path / "c/compare.json").write_text('{"name": "\\u001b[31m", "seeds": [0], "runs": {}}')
    require_line(lambda: read_finished(tmp_path / "c"), "compare.json is damaged", "control characters")
    (tmp_path / "c/compare.json").write_text('{"name": "x", "seeds": [0], "runs": {}}')
    require_line(lambda: read_finished(tmp_path / "c"), "compare.json is damaged (runs:")


def test_client_scores_are_means_over_seeds_of_what_is_deployed():
    runs = [make_whole("fedit", seed) for seed in range(2)]
    own = [run["test_by_client"]["deployed"]["b"]["accuracy"] for run in runs]
    assert average_client_scores(runs)["b"] == pytest.approx(sum(own) / 2)
    assert average_client_scores([{"metric": "accuracy"}]) == {}
