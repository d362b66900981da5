"""Which runs a comparison has, how it tunes, and what it refuses to mix."""

import json
import shutil

import pytest
import yaml
from helpers.callbacks import Notes

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import NoQuorum, UserError
from fedpeft.runs import grid
from fedpeft.runs.fingerprint import take_fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.grid import RunGrid, find_folder, get_or_run
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.load import load_task


@pytest.fixture
def experiment(experiment_file):
    return load_experiment(experiment_file, ["methods.fedit.lr=[0.1, 0.2, 0.3]"])


@pytest.fixture
def scores(monkeypatch):
    """Results are looked up here, by label and rate, instead of run: (score, loss), or an error."""
    table, calls, positions = {}, [], []

    def look_up(spec, out, callback, accelerations, keep, position):
        positions.append(position)
        calls.append((spec.label, spec.seed, spec.lr))
        result = table.get((spec.label, spec.lr), (0.5, 1.0))
        if isinstance(result, Exception):
            raise result
        score, loss = result
        return {"rounds": 3, "validation": {"3": {"by_client": score, "loss": loss}}, "spec": (spec.seed, spec.lr)}

    monkeypatch.setattr(grid, "get_or_run", look_up)
    return table, calls, positions


def make_grid(experiment, tmp_path, labels=("fedit", "local"), seeds=(0, 1)):
    return RunGrid(experiment, {label: experiment.list_learning_rates(label) for label in labels}, seeds, tmp_path)


def test_the_best_rate_of_the_first_seed_is_run_with_the_others_and_nothing_twice(experiment, tmp_path, scores):
    table, calls, positions = scores
    table |= {("fedit", 0.1): (0.7, 1.0), ("fedit", 0.2): (0.7, 0.9), ("fedit", 0.3): (0.6, 0.1)}
    runs = make_grid(experiment, tmp_path)
    results = runs.run(tmp_path, RunCallback())
    assert [result["spec"] for result in results["fedit"]] == [(0, 0.2), (1, 0.2)]  # of equal scores the least loss
    assert runs.tuned == {"fedit": {"0.1": 0.7, "0.2": 0.7, "0.3": 0.6}}
    tries = [("fedit", 0, lr) for lr in (0.1, 0.2, 0.3)]
    assert calls == [*tries, ("local", 0, None), ("fedit", 1, 0.2), ("local", 1, None)]
    assert positions == [(i, 6) for i in range(1, 7)]


def test_a_rate_at_which_training_fails_is_noted_and_out(experiment, tmp_path, scores):
    table, *_ = scores
    table |= {("fedit", lr): NoQuorum("diverged") for lr in (0.1, 0.3)}
    notes, runs = Notes(), make_grid(experiment, tmp_path, ["fedit"])
    results = runs.run(tmp_path, notes)
    assert [result["spec"] for result in results["fedit"]] == [(0, 0.2), (1, 0.2)]
    assert runs.tuned == {"fedit": {"0.1": None, "0.2": 0.5, "0.3": None}}
    assert notes.lines == [f"fedit: the learning rate {lr} is out: diverged" for lr in (0.1, 0.3)]
    table["fedit", 0.2] = NoQuorum("diverged")
    with pytest.raises(NoQuorum, match=r"methods\.fedit\.lr: training failed at every rate"):
        make_grid(experiment, tmp_path, ["fedit"]).run(tmp_path, notes)


def test_a_rate_is_searched_for_with_the_same_trials_for_every_method(experiment_file, tmp_path, scores):
    table, calls, positions = scores
    labels = ["fedit", "fedreft"]
    overrides = ["methods.fedit.lr=auto", "methods.fedreft.lr={start: 0.01}", "tuning={factor: 10, trials: 4}"]
    experiment = load_experiment(experiment_file, overrides)
    table |= {("fedit", 0.001): (0.9, 1.0), ("fedreft", 0.1): (0.8, 1.0), ("fedreft", 1.0): NoQuorum("diverged")}
    runs, notes = make_grid(experiment, tmp_path, labels), Notes()
    results = runs.run(tmp_path, notes)
    assert runs.tuned == {
        "fedit": {"0.0001": 0.5, "0.001": 0.9, "0.003162": 0.5, "0.01": 0.5},  # ascending: its curve
        "fedreft": {"0.01": 0.5, "0.03162": 0.5, "0.1": 0.8, "1": None},
    }
    assert [result["spec"][1] for label in labels for result in results[label]] == [0.001, 0.001, 0.1, 0.1]
    assert len(calls) == 2 * (4 + 1) and positions[-1] == (10, 10) and runs.edges == {}
    more = load_experiment(experiment_file, [*overrides, "tuning.trials=6"])
    first_calls = list(calls)
    make_grid(more, tmp_path, labels).run(tmp_path, notes)
    tried = {label: [lr for name, seed, lr in calls[10:] if (name, seed) == (label, 0)] for label in labels}
    assert tried["fedit"][:4] == [lr for name, seed, lr in first_calls if (name, seed) == ("fedit", 0)][:4]
    assert len(tried["fedit"]) == len(tried["fedreft"]) == 6


def test_where_the_best_rate_is_at_the_edge_it_is_said_with_what_to_do(experiment_file, experiment, tmp_path, scores):
    table, *_ = scores
    table |= {("fedit", 0.3): (0.9, 1.0)}
    notes, runs = Notes(), make_grid(experiment, tmp_path, ["fedit"])
    runs.run(tmp_path, notes)
    assert runs.edges == {"fedit": "highest"}
    assert notes.lines == [
        "fedit: the best learning rate, 0.3, is the highest of the 3 tried, so that a higher one may be better; "
        "extend the list, or say lr: auto"
    ]
    table |= {("fedit", rate): (0.5 + rate, 1.0) for rate in (1e-3, 1e-2, 1e-1)}
    searched = load_experiment(experiment_file, ["methods.fedit.lr={start: 1e-3}", "tuning={factor: 10, trials: 3}"])
    notes = Notes()
    make_grid(searched, tmp_path, ["fedit"]).run(tmp_path, notes)
    assert "0.1, is the highest of the 3 tried" in notes.lines[0] and "raise tuning.trials" in notes.lines[0]


@pytest.fixture
def held(experiment_file, tmp_path):
    """A grid of one method, its data in a file of their own, and the folder of a run that is there already."""
    experiment = load_experiment(experiment_file)
    data = shutil.copy(experiment.task.source, tmp_path / "rows.jsonl")
    experiment = load_experiment(experiment_file, [f"task.source={data}"])
    spec = RunSpec(experiment, "fedit", 0, None, tmp_path)
    saw = take_fingerprint(load_task(experiment.task, experiment.partition, 0, tmp_path), experiment.model)
    folder = RunFolder.create(find_folder(spec, tmp_path).path, spec.as_dict(), saw)
    return make_grid(experiment, tmp_path, ["fedit"]), folder, data


def test_runs_on_the_same_data_are_taken_as_they_are(held, tmp_path):
    runs, folder, _ = held
    assert folder.path == tmp_path / "fedit/lr0.005-seed0"
    runs.require_same_runs(tmp_path)
    runs.require_same_runs(tmp_path / "elsewhere")


def test_runs_on_other_data_are_never_mixed(held, tmp_path):
    """The rows were cut from 240 to 199 between two seeds."""
    runs, folder, data = held
    data.write_text("\n".join(data.read_text().splitlines()[:199]))
    with pytest.raises(UserError) as error:
        runs.require_same_runs(tmp_path)
    assert str(error.value).startswith(f"{folder.path} is a run on other data or another model: client 'site0' had 52")
    folder.path.joinpath("fingerprint.json").unlink()  # of a version that took none
    runs.require_same_runs(tmp_path)


def test_a_damaged_fingerprint_is_one_line(held, tmp_path):
    runs, folder, _ = held
    for content in ("{", "[]", json.dumps({"labels": [], "clients": {"a": 1}, "model": None, "tokenizer": None})):
        (folder.path / "fingerprint.json").write_text(content)
        with pytest.raises(UserError, match=r"fingerprint\.json .*put it back"):
            runs.require_same_runs(tmp_path)


def test_runs_of_other_settings_are_never_mixed(held, tmp_path):
    runs, folder, _ = held
    settings = yaml.safe_load((folder.path / "experiment.yaml").read_text())
    settings["experiment"]["training"]["rounds"] = 9
    (folder.path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    line = r"fedit/lr0.005-seed0 holds a run of other settings \(training\.rounds: 9 there, 3 here\)"
    with pytest.raises(UserError, match=line):
        runs.require_same_runs(tmp_path)
    with pytest.raises(UserError, match=line):
        get_or_run(RunSpec(runs.experiment, "fedit", 0, None, tmp_path), tmp_path, RunCallback())
