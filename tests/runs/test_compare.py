"""One table over methods and seeds: what it says, and what becomes of the one that was there."""

import json

import pytest
from helpers.callbacks import Notes

from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs import compare as module
from fedpeft.runs.compare import compare
from fedpeft.runs.compare_results import FILE, summarise_method
from fedpeft.runs.grid import RunGrid
from fedpeft.runs.lock import lock_folder


def make_result(score=0.5, **changes):
    averages = {"by_client": score, "worst_client": score / 2, "loss": 1.0}
    return {
        "label": "mine",
        "seed": 0,
        "method": "fedit",
        "metric": "accuracy",
        "options": {"lr": 0.1},
        "test": {"deployed": averages},
        "deployment": {"choices": {"a": "received", "b": "trained"}},
        "adapter_parameters": 10,
        "head_parameters": 2,
        "bytes_down": 100,
        "bytes_up": 50,
        "peak_memory_mib": 300.0,
        "seconds": {"total": 2.0},
        "quarantined": 1,
        **changes,
    }


def test_a_row_has_means_and_spreads_over_seeds_the_peak_and_the_sum_of_replies_left_out():
    row = summarise_method("mine", [make_result(0.5), make_result(0.7, peak_memory_mib=400.0, seconds={"total": 4.0})])
    assert row["deployed"]["mean"] == pytest.approx(0.6) and row["deployed"]["sd"] == pytest.approx(0.02**0.5)
    assert row["worst_client"]["mean"] == pytest.approx(0.3)
    assert (row["label"], row["method"], row["lr"]) == ("mine", "fedit", 0.1)
    assert (row["peak_memory_mib"], row["seconds"]["mean"], row["quarantined"]) == (400.0, 3.0, 2)
    assert row["trained"] is None and row["choices"] == {"received": 2, "trained": 2}


def test_one_seed_has_no_spread_and_trained_models_stand_beside_the_deployed_ones():
    test = {"deployed": {"by_client": 0.5, "worst_client": 0.1}, "trained": {"by_client": 0.4, "worst_client": 0.1}}
    row = summarise_method("mine", [make_result(test=test)])
    assert row["trained"] == {"mean": 0.4, "sd": None}
    for lacking in (test | {"trained": None}, {"deployed": test["deployed"]}):
        assert summarise_method("mine", [make_result(test=test), make_result(test=lacking)])["trained"] is None


@pytest.fixture
def compared(experiment_file, tmp_path, monkeypatch):
    """Compares methods without a run of any."""
    experiment = load_experiment(experiment_file)
    monkeypatch.setattr(RunGrid, "run", lambda self, *rest: {label: [make_result()] for label in self.rates})
    monkeypatch.setattr(module, "require_comparable", lambda *rest: None)

    def compare_labels(*labels):
        notes = Notes()
        return compare(experiment, labels, 1, tmp_path, tmp_path / "out", notes), notes.lines

    return compare_labels


def test_the_comparison_is_written_and_a_label_asked_for_twice_stands_once(compared, tmp_path):
    comparison, notes = compared("fedit", "local", "fedit")
    assert json.loads((tmp_path / "out" / FILE).read_text()) == comparison
    assert [row["label"] for row in comparison["rows"]] == ["fedit", "local"] and notes == []
    with pytest.raises(UserError, match="unknown method 'fedi', did you mean 'fedit'"):
        compared("fedi")


def test_methods_that_the_table_no_longer_holds_are_named(compared):
    compared("fedit", "local")
    _, (note,) = compared("local", "ditto")
    assert "compare.json no longer holds fedit;" in note


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"rows": [3]}', b'{"rows": [{"label": "\\u001b[31m"}]}', b"\xff"]
)
def test_a_damaged_comparison_is_noted_and_written_anew(compared, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_bytes(content)
    comparison, (note,) = compared("fedit")
    assert FILE in note and note.endswith("it is written anew") and note.isprintable()
    assert json.loads((tmp_path / "out" / FILE).read_text()) == comparison


def test_what_a_killed_comparison_left_half_written_is_removed(compared, tmp_path):
    compared("fedit")
    (file,) = tmp_path.rglob("compare.json")
    file.with_name(".compare.json.99999.tmp").touch()
    compared("fedit")
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_comparisons_do_not_write_one_folder(compared, tmp_path):
    with lock_folder(tmp_path / "out"), pytest.raises(UserError, match="is in use by process"):
        compared("fedit")
    compared("fedit")


def test_a_comparison_that_cannot_be_written_is_told_before_it_begins(compared, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"compare\.json is a link"):
        compared("fedit")
