"""From files to a record: finished, unfinished, old, damaged and foreign ones."""

import json

import pytest
from helpers.result_files import make_log, make_result, write_comparison, write_run

from fedpeft.errors import UserError
from fedpeft.reports.collect import collect

CLIENTS = ["a", "b"]


def test_a_run_with_its_log(tmp_path):
    result = make_result("fedit", 3, CLIENTS, 2)
    record = collect(write_run(tmp_path / "run", result, make_log(result)))
    run = record.methods[0].runs[0]
    assert (record.kind, record.metric, record.choices) == ("run", "accuracy", ["deployed", "received", "trained"])
    assert (run.seed, run.rate, run.completed_rounds, len(run.log)) == (3, 0.005, 2, 8)
    assert run.result.test == result["test"] and record.notes == []


def test_an_unfinished_run_gives_what_there_is_and_says_so(tmp_path):
    result = make_result("fedit", 0, CLIENTS, 5)
    folder = write_run(tmp_path / "run", result, make_log(result)[:12], finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "spl')  # killed, or training now
    record = collect(folder)
    assert record.results == [] and record.choices == []
    assert record.notes == ["fedit, seed 0: not finished, 3 of 5 rounds completed; there is no test score yet."]


def test_lines_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    result = make_result("fedit", 0, CLIENTS, 1)
    folder = write_run(tmp_path / "run", result, make_log(result))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"round": "x", "split": "train", "client": "a"}\n[1]\n\x00\n{"round": 1, "split": {}, "client": 3}\n'
        )
    record = collect(folder)
    assert len(record.methods[0].runs[0].log) == 4
    assert record.notes == ["run/metrics.jsonl: 4 of 8 lines cannot be read and are left out."]


def test_a_comparison_with_its_runs_and_without_them(tmp_path):
    write_comparison(tmp_path / "out", ["local", "fedit"], 2, CLIENTS, 2)
    record = collect(tmp_path / "out")
    assert [m.label for m in record.methods] == ["local", "fedit"]
    assert all(len(run.log) == 8 for method in record.methods for run in method.runs)
    (tmp_path / "alone.json").write_bytes((tmp_path / "out" / "compare.json").read_bytes())
    record = collect(tmp_path / "alone.json")
    assert record.notes == ["No run folders beside alone.json: there is no course over rounds."]


def test_a_comparison_that_was_broken_off(tmp_path):
    for rate in (0.005, 0.05):
        result = make_result("fedit", 0, CLIENTS, 2, options={"method": "fedit", "lr": rate})
        write_run(tmp_path / "fedit" / f"lr{rate:g}-seed0", result, make_log(result), finished=rate < 0.01)
    record = collect(tmp_path)
    assert [method.label for method in record.methods] == ["fedit, lr 0.005", "fedit, lr 0.05"]
    assert record.notes[0] == "The comparison is not finished: 1 runs are, so far."


def test_a_label_that_is_a_path_reads_nothing_elsewhere(tmp_path):
    comparison = write_comparison(tmp_path / "out", ["fedit"], 1, CLIENTS, 1)
    result = make_result("secret", 0, CLIENTS, 1)
    write_run(tmp_path / "secret" / "lr0.005-seed0", result, make_log(result))
    comparison["runs"] = {"../secret": comparison["runs"]["fedit"]}
    (tmp_path / "out" / "compare.json").write_text(json.dumps(comparison))
    assert collect(tmp_path / "out").methods[0].runs[0].log == []


def test_results_of_an_earlier_version(tmp_path):
    result = make_result("fedit", 0, CLIENTS, 1)
    for key in ("metric", "label_fractions", "resources", "peak_memory_mib", "seconds"):
        del result[key]
    for scores in (result["test"], result["test_by_client"]):
        scores["personal"] = scores.pop("deployed")
        del scores["received"], scores["trained"]
    record = collect(write_run(tmp_path / "run", result, []))
    assert (record.metric, record.choices) == ("accuracy", ["personal"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is damaged"),
        ('{"name": "x", "runs": {}}', "holds no runs"),
        ('{"name": "x", "runs": {"a": [{"label": "a", "test": 3}]}}', "runs.a.0.test"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_damaged_comparison_is_one_line(tmp_path, text, words):
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        collect(tmp_path)
    assert len(str(caught.value)) < 500


def test_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run and no comparison at"):
        collect(tmp_path)
