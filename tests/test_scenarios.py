"""Scenarios: what each lays over an experiment, that results never mix, and a wrong name in one line."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from fedpeft.cli import app
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.scenarios import SCENARIOS, get_overrides

SMALL = ("training.rounds=1", "partition.clients=4", "partition.max_train=8")


def load_under(file, name, *overrides):
    return load_experiment(file, [*get_overrides(name), *overrides])


def compare(file, *arguments, overrides=()):
    sets = [part for override in overrides for part in ("--set", override)]
    return CliRunner().invoke(app, ["compare", str(file), *arguments, *sets], catch_exceptions=True)


def read_comparisons(out):
    return {path.parent.name: json.loads(path.read_text()) for path in out.rglob("compare.json")}


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_fits_an_experiment_and_changes_only_what_it_names(experiment_file, name):
    plain, changed = load_experiment(experiment_file).model_dump(), load_under(experiment_file, name).model_dump()
    (group,) = {key.split(".")[0] for key in SCENARIOS[name].overrides}
    assert plain | {group: None} == changed | {group: None}
    for key, value in SCENARIOS[name].overrides.items():
        node = changed
        for part in key.split("."):
            node = node[part]
        if name != "four-levels":  # whose levels have defaults too
            assert node == value
    assert SCENARIOS[name].about and "\n" not in SCENARIOS[name].about


def test_dirichlet_scenarios_differ_in_alpha(experiment_file):
    for name, alpha in {"dirichlet-0.1": 0.1, "dirichlet-0.5": 0.5}.items():
        partition = load_under(experiment_file, name).partition
        assert (partition.kind, partition.alpha) == ("dirichlet", alpha)


def test_four_levels_are_a_quarter_of_the_clients_each(experiment_file):
    levels = load_under(experiment_file, "four-levels").resources
    assert [(level.fraction, level.rank, level.density) for level in levels] == [
        (0.25, 8, 1),
        (0.25, 4, 0.75),
        (0.25, 2, 0.5),
        (0.25, 1, 0.25),
    ]


def test_availability_is_a_fraction_of_the_clients(experiment_file):
    fractions = [load_under(experiment_file, name).training.participation for name in ("all", "half", "fifth")]
    assert fractions == [1.0, 0.5, 0.2]


def test_set_has_the_last_word(experiment_file):
    assert load_under(experiment_file, "uniform", "resources=[{rank: 2}]").resources[0].rank == 2


def test_domains_have_as_many_clients_as_there_are_values(experiment_file):
    raw = yaml.safe_load(experiment_file.read_text())
    raw["partition"] |= {"clients": 7}
    experiment_file.write_text(yaml.safe_dump(raw))
    assert load_under(experiment_file, "domains").partition.clients is None
    assert load_under(experiment_file, "iid").partition.clients == 7


def test_each_runs_in_a_folder_of_its_own(experiment_file, tmp_path):
    arguments = ["--methods", "fedit,local", "--out", str(tmp_path / "out"), "--scenario", "iid, dirichlet-0.1,iid"]
    process = compare(experiment_file, *arguments, overrides=SMALL)
    assert process.exit_code == 0, process.output
    assert "tiny, iid" in process.output and "tiny, dirichlet-0.1" in process.output
    comparisons = read_comparisons(tmp_path / "out")
    assert comparisons.keys() == {"iid", "dirichlet-0.1"}
    for name, comparison in comparisons.items():
        assert comparison["scenario"] == name
        assert comparison["experiment"]["partition"]["kind"] == name.split("-")[0]
        assert comparison["experiment"]["partition"]["clients"] == 4
        assert [row["label"] for row in comparison["rows"]] == ["fedit", "local"]
    rows = {name: comparison["runs"]["fedit"][0]["rows"] for name, comparison in comparisons.items()}
    assert rows["iid"] != rows["dirichlet-0.1"]


def test_without_a_scenario_all_is_as_before(experiment_file, tmp_path):
    process = compare(
        experiment_file, "--methods", "local", "--out", str(tmp_path / "out"), overrides=[SMALL[0], SMALL[2]]
    )
    assert process.exit_code == 0, process.output
    assert read_comparisons(tmp_path)["out"]["scenario"] is None


def test_half_of_four_levels_of_clients_train(experiment_file, tmp_path):
    arguments = ["--methods", "flora", "--out", str(tmp_path), "--scenario", "four-levels,half"]
    process = compare(experiment_file, *arguments, overrides=[*SMALL, "partition.kind=iid"])
    assert process.exit_code == 0, process.output
    comparisons = read_comparisons(tmp_path)
    parameters = {name: comparison["rows"][0]["adapter_parameters"] for name, comparison in comparisons.items()}
    assert parameters["four-levels"] == parameters["half"] * (8 + 4 + 2 + 1) / (4 * 8)  # half: rank 8 everywhere
    lines = (tmp_path / "half/flora/lr0.005-seed0/metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["split"] == "train" for line in lines) == 2


def test_a_wrong_name_is_one_line_before_anything_runs(experiment_file, tmp_path):
    process = compare(experiment_file, "--out", str(tmp_path / "out"), "--scenario", "iid,dirichlet-0.4")
    message = str(process.exception)
    assert isinstance(process.exception, UserError) and "\n" not in message
    assert "'dirichlet-0.4', did you mean 'dirichlet-0.5'?" in message
    assert all(name in message for name in SCENARIOS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="unknown scenario ''"):
        get_overrides("")


def test_help_lists_them():
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "300"}).output
    assert all(name in shown for name in SCENARIOS)
