"""Scenarios: what each lays over an experiment, that results never mix, and a wrong name in one line."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from fedpeft.cli import app
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.scenarios import SCENARIOS, get_overrides


def laid(file, name, *more):
    return load_experiment(file, [*get_overrides(name), *more])


def compare(file, *arguments):
    return CliRunner().invoke(app, ["compare", str(file), *arguments], catch_exceptions=True)


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_fits_an_experiment_and_changes_only_what_it_names(experiment_file, name):
    plain, changed = load_experiment(experiment_file).model_dump(), laid(experiment_file, name).model_dump()
    parts = {key.split(".")[0] for key in SCENARIOS[name].overrides}
    assert len(parts) == 1 and {part: plain[part] for part in plain.keys() - parts} == {
        part: changed[part] for part in changed.keys() - parts
    }
    for key, value in SCENARIOS[name].overrides.items():
        found = changed
        for part in key.split("."):
            found = found[part]
        if name != "four-levels":
            assert found == value
    assert SCENARIOS[name].about and "\n" not in SCENARIOS[name].about


def test_what_they_mean(experiment_file):
    assert laid(experiment_file, "dirichlet-0.1").partition.alpha == 0.1
    assert laid(experiment_file, "dirichlet-0.5").partition.kind == "dirichlet"
    levels = laid(experiment_file, "four-levels").resources
    assert [(v.share, v.rank, v.density) for v in levels] == [
        (0.25, 8, 1),
        (0.25, 4, 0.75),
        (0.25, 2, 0.5),
        (0.25, 1, 0.25),
    ]
    assert laid(experiment_file, "uniform", "resources=[{rank: 2}]").resources[0].rank == 2  # --set has the last word
    asked = [laid(experiment_file, name).training.participation for name in ("all", "half", "fifth")]
    assert asked == [1.0, 0.5, 0.2]
    file = experiment_file
    raw = yaml.safe_load(file.read_text())
    raw["partition"] |= {"clients": 7}
    file.write_text(yaml.safe_dump(raw))
    assert laid(file, "domains").partition.clients is None  # as many as there are
    assert laid(file, "iid").partition.clients == 7


def test_each_runs_in_a_folder_of_its_own(experiment_file, tmp_path):
    arguments = ["--methods", "fedit,local", "--set", "training.rounds=1", "--set", "partition.clients=4"]
    done = compare(experiment_file, *arguments, "--out", str(tmp_path / "out"), "--scenario", "iid, dirichlet-0.1,iid")
    assert done.exit_code == 0, done.output
    assert "tiny, iid" in done.output and "tiny, dirichlet-0.1" in done.output
    found = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("compare.json")}
    assert found.keys() == {"iid", "dirichlet-0.1"}
    for name, comparison in found.items():
        assert comparison["scenario"] == name
        assert comparison["experiment"]["partition"]["kind"] == name.split("-")[0]
        assert comparison["experiment"]["partition"]["clients"] == 4
        assert [row["label"] for row in comparison["rows"]] == ["fedit", "local"]
    rows = {name: comparison["runs"]["fedit"][0]["rows"] for name, comparison in found.items()}
    assert rows["iid"] != rows["dirichlet-0.1"]


def test_without_a_scenario_all_is_as_before(experiment_file, tmp_path):
    arguments = ["--methods", "local", "--set", "training.rounds=1", "--out", str(tmp_path / "out")]
    assert compare(experiment_file, *arguments).exit_code == 0
    assert json.loads((tmp_path / "out/compare.json").read_text())["scenario"] is None


def test_half_of_four_levels_of_clients_train(experiment_file, tmp_path):
    sets = ["partition.kind=iid", "partition.clients=4", "training.rounds=1"]
    arguments = [part for value in sets for part in ("--set", value)]
    done = compare(
        experiment_file, "--methods", "flora", *arguments, "--out", str(tmp_path), "--scenario", "four-levels,half"
    )
    assert done.exit_code == 0, done.output
    levels, half = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("four-levels", "half"))
    alike = half["rows"][0]["adapter_parameters"]
    assert levels["rows"][0]["adapter_parameters"] == alike * (8 + 4 + 2 + 1) / (4 * 8)
    lines = (tmp_path / "half/flora/lr0.005-seed0/metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["split"] == "train" for line in lines) == 2


def test_a_wrong_name_is_one_line_before_anything_runs(experiment_file, tmp_path):
    done = compare(experiment_file, "--out", str(tmp_path / "out"), "--scenario", "iid,dirichlet-0.4")
    assert isinstance(done.exception, UserError)
    assert "'dirichlet-0.4', did you mean 'dirichlet-0.5'?" in str(done.exception)
    assert not (tmp_path / "out").exists()
    for name in SCENARIOS:
        assert name in str(done.exception)
    with pytest.raises(UserError, match="unknown scenario ''"):
        get_overrides("")


def test_help_lists_them():
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "300"}).output
    for name in SCENARIOS:
        assert name in shown
