"""Killed, or on a full disk, at any file operation a run, a comparison or a joining goes on to the same bits.

By default every point of a run's folder without training, and a few of a whole run; FEDPEFT_CRASH_POINTS=all (`make
test-crash`) takes every point of runs by four methods with their exports, of a comparison and of a client that joins.
"""

import json
import os
import shutil
from itertools import count
from pathlib import Path

import pytest
import torch
from helpers.crashes import run_and_kill, run_on_full_disk

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.compare import compare
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.join import join
from fedpeft.runs.lock import LOCK, lock_folder
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec

ALL = os.environ.get("FEDPEFT_CRASH_POINTS") == "all"
FEW = (40,)
every_point = pytest.mark.skipif(not ALL, reason="FEDPEFT_CRASH_POINTS=all, some minutes")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A killed process leaves what it wrote, synced or not; what a power cut takes the child takes itself."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("fedpeft.runs.folder.describe_environment", dict)


def try_points(path, act, check, points=None, before=None, run=run_and_kill):
    """Kills `act` at every point, or at some, and checks what is left; returns how many points there were.

    At first the folder is a copy of `before`, or not there.
    """
    for number in count(1) if points is None else points:
        shutil.rmtree(path, ignore_errors=True)
        if before is not None:
            shutil.copytree(before, path)
        was_ended = run(path, number, act)
        check()
        if not was_ended:
            return number - 1
    return len(points)


def read_bits(path):
    """Everything that the seed determines, and the names of all files."""
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.name != LOCK)
    bits = {name: (path / name).read_bytes() for name in names if name.endswith(("metrics.jsonl", "model.safetensors"))}
    return names, bits


def write_rounds(path):
    """What a run of two rounds writes, from wherever an earlier one was killed."""
    with lock_folder(path):
        folder = RunFolder(path)
        if not folder.has("experiment.yaml"):
            saw_nothing = Fingerprint(labels=[], clients={}, model=None, tokenizer=None)
            RunFolder.create(path, {"base": "/", "experiment": {"methods": {"fedit": {}}}}, saw_nothing)
        saved = folder.load_checkpoint()
        folder.cut_logs(saved)
        done = saved.round if saved else 0
        total = float(saved.state["total"]) if saved else 0.0
        for round_ in range(done + 1, 3):
            total += round_ / 7
            folder.append("metrics.jsonl", [{"round": round_, "split": "train", "client": c} for c in "abc"])
            folder.append("timings.jsonl", [{"round": round_, "seconds": 1.0}])
            seconds = dict.fromkeys(("train", "aggregate", "evaluate", "total"), 0.0)
            state = {"total": torch.tensor(total, dtype=torch.float64)}
            folder.save_checkpoint({"round": round_, "seconds": seconds, "state": state, "clients": {}})
        folder.append("metrics.jsonl", [{"round": 2, "split": "test", "total": total}])
        folder.write_result({"total": total})


@pytest.mark.parametrize(("run", "points"), [(run_and_kill, 50), (run_on_full_disk, 25)])
def test_every_point_of_a_runs_folder(tmp_path, run, points):
    whole, path = tmp_path / "whole", tmp_path / "run"
    write_rounds(whole)

    def check():
        write_rounds(path)
        assert read_bits(path) == read_bits(whole)
        assert (path / "result.json").read_bytes() == (whole / "result.json").read_bytes()

    assert try_points(path, lambda: write_rounds(path), check, run=run) > points


def go_on(spec, path):
    if (path / "experiment.yaml").exists():
        resume(path, RunCallback())
    else:
        start(spec, path, RunCallback())


@pytest.fixture
def make_spec(experiment_file, tmp_path):
    def make(label):
        overrides = ["training.rounds=2", "workers=1", "training.participation=0.6"]
        overrides += [f"partition.max_{split}=8" for split in ("train", "validation", "test")]
        return RunSpec(load_experiment(experiment_file, overrides), label, 0, None, tmp_path)

    return make


def try_run(spec, tmp_path, points=None, run=run_and_kill):
    whole, path = tmp_path / "whole", tmp_path / "run"
    start(spec, whole, RunCallback())

    def check():
        go_on(spec, path)
        assert read_bits(path) == read_bits(whole)

    return try_points(path, lambda: start(spec, path, RunCallback()), check, points, run=run)


def test_some_points_of_a_whole_run(make_spec, tmp_path):
    assert try_run(make_spec("fedit"), tmp_path, FEW) == len(FEW)


@every_point
@pytest.mark.parametrize("label", ["fedit", "fedhft", "fedreft", "flora"])
def test_every_point_of_a_whole_run(make_spec, tmp_path, label):
    points = try_run(make_spec(label), tmp_path)
    print(f"{label}: {points} points")
    assert points > 60


@every_point
def test_every_point_at_which_the_disk_is_full(make_spec, tmp_path):
    points = try_run(make_spec("fedhft"), tmp_path, run=run_on_full_disk)
    print(f"full disk: {points} points")
    assert points > 30


@every_point
def test_every_point_of_a_comparison(make_spec, tmp_path):
    spec, whole, path = make_spec("fedit"), tmp_path / "whole", tmp_path / "out"

    def run(out):
        return compare(spec.experiment, ["fedit", "local"], 1, tmp_path, out, RunCallback())

    run(whole)

    def check():
        run(path)
        assert read_bits(path) == read_bits(whole)
        tables = [json.loads((out / "compare.json").read_text())["rows"] for out in (path, whole)]
        assert [row["deployed"] for row in tables[0]] == [row["deployed"] for row in tables[1]]

    points = try_points(path, lambda: run(path), check)
    print(f"compare: {points} points")
    assert points > 90


@every_point
def test_every_point_of_a_client_that_joins(make_spec, tmp_path):
    finished, whole, path = tmp_path / "finished", tmp_path / "whole", tmp_path / "run"
    spec = make_spec("fedreft")
    start(spec, finished, RunCallback())
    data = tmp_path / "late.jsonl"
    rows = [line for line in Path(spec.experiment.task.source).read_text().splitlines() if '"site1"' in line]
    data.write_text("\n".join(rows))
    shutil.copytree(finished, whole)
    join(whole, data, "late")

    def check():
        if not (path / "clients/late").exists():
            join(path, data, "late")
        assert read_bits(path) == read_bits(whole)

    points = try_points(path, lambda: join(path, data, "late"), check, before=finished)
    print(f"join: {points} points")
    assert points > 5
