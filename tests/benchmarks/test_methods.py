"""The plan of benchmarks/methods.py holds together, and its tables say what the scores say."""

import json
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import methods  # noqa: E402
import methods_tables  # noqa: E402

PLAN = yaml.safe_load(methods.PLAN.read_text())


@pytest.fixture
def data(tmp_path):
    for name in ("reviews", "planted"):  # rows that are there already
        (tmp_path / f"{name}.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize("table", PLAN["tables"])
def test_every_experiment_of_the_plan_can_be_made_and_shares_the_protocol(table, data):
    wanted = PLAN["tables"][table]
    if "tuned_on" in wanted:
        folder = data / f"{table}_{wanted['tuned_on']}"
        folder.mkdir()
        rows = [{"label": label, "lr": 0.5} for label in wanted["methods"]]
        (folder / "compare.json").write_text(json.dumps({"rows": rows}))
    for name in wanted["federations"]:
        experiment = methods.make_experiment(PLAN, table, name, data, data)
        assert experiment.partition.max_train == PLAN["rows"]["max_train"]
        assert experiment.training.rounds == PLAN["common"]["training"]["rounds"]
        assert experiment.training.deploy == "validation" and experiment.tuning.trials == 3
        is_searched = {experiment.is_rate_searched(label) for label in experiment.methods}
        assert is_searched == {wanted.get("tuned_on") == name}
        if wanted.get("tuned_on", name) != name:
            assert {options["lr"] for options in experiment.methods.values()} == {0.5}
    assert {*wanted["ours"], *wanted["others"]} <= set(wanted["methods"])


def test_without_the_comparison_that_rates_are_chosen_on_it_is_one_line(data):
    with pytest.raises(SystemExit, match=r"^learning rates are chosen on levels_sst2, which has not been run"):
        methods.make_experiment(PLAN, "levels", "reviews", data, data)


def make_record(first, *others):
    """A comparison of two clients and seeds: `first` and methods whose scores are `others` below it."""

    def make_runs(below):
        scores = {"a": {"accuracy": first - below}, "b": {"accuracy": first - below}}
        return [{"seed": seed, "metric": "accuracy", "test_by_client": {"deployed": scores}} for seed in (0, 1)]

    return {"runs": {"ours": make_runs(0)} | {f"other{i}": make_runs(below) for i, below in enumerate(others)}}


def test_a_difference_is_the_mean_over_federations_and_rivals():
    found = {"one": make_record(0.9, 0.1, 0.2), "two": make_record(0.8, 0.1, 0.4), "three": make_record(0.5, 0.1)}
    both = methods_tables.estimate_over_federations(found, "ours", ["other0", "other1"])
    assert both.mean == pytest.approx(20) and both.pairs == 8  # (15 + 25) / 2; the third lacks a rival
    alone = methods_tables.estimate_over_federations(found, "ours", ["other0"])
    assert methods_tables.describe(alone) == "+10.0 [10.0, 10.0]"


def test_every_committed_result_is_read():
    for table in PLAN["tables"]:
        for record in methods_tables.read_table(table).values():
            assert set(record["runs"]) == {row["label"] for row in record["rows"]}
