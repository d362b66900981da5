"""Whole runs under a round policy: a client that fails sits out and comes back, also over a break; retries; hanging."""

import json
import threading
import time
from collections import Counter

import pytest
from runs.test_runner import StoppingCallback, contents, settings

from fedpeft.callbacks import RunCallback
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
from fedpeft.methods.fedit import FedIt
from fedpeft.runs.runner import resume, start

EXCLUDING = ["training.rounds=6", "training.exclude_after=1", "training.readmit_after=2", "training.evaluate_every=0"]


class Stopping(StoppingCallback):
    def on_client_end(self, outcome):
        pass


@pytest.fixture
def fail(monkeypatch):
    """fail(condition) has clients fail in their local training where `condition(message, attempt)` says so."""
    real, attempts = FedIt.train, Counter()

    def set_condition(condition):
        def train(self, model, message, *rest):
            attempts[message.client, message.round] += 1
            if condition(message, attempts[message.client, message.round]):
                raise RuntimeError("no memory left")
            return real(self, model, message, *rest)

        attempts.clear()
        monkeypatch.setattr(FedIt, "train", train)

    return set_condition


def read_train_lines(path, *keys):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "train"]
    return {key: [(x["client"], x["round"], x[key]) for x in lines if key in x] for key in keys}


def test_an_exclusion_outlives_a_break_and_the_log_the_result_and_the_table_tell_of_it(
    experiment_file, tmp_path, fail, monkeypatch
):
    fail(lambda message, attempt: message.client == "site1" and message.round <= 4)
    whole = start(settings(experiment_file, "fedit", EXCLUDING), tmp_path / "whole", RunCallback())
    with pytest.raises(KeyboardInterrupt):
        start(settings(experiment_file, "fedit", EXCLUDING), tmp_path / "broken", Stopping(2))
    resumed = resume(tmp_path / "broken", RunCallback())
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    marks = read_train_lines(tmp_path / "whole", "excluded_until", "readmitted", "failed")
    assert marks["excluded_until"] == [("site1", 1, 3), ("site1", 4, 6)] and marks["readmitted"] == [("site1", 4, True)]
    assert resumed["excluded"] == whole["excluded"] == {"site1": [[2, 3], [5, 6]]}
    assert resumed["client_rounds"] == 6 * 3 - 4 and resumed["quarantined"] == 2


def test_a_checkpoint_of_an_earlier_version_excludes_nobody(experiment_file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(settings(experiment_file, "fedit", EXCLUDING), tmp_path / "run", Stopping(1))
    file = tmp_path / "run/checkpoint.safetensors"
    tree = load_checkpoint(file)
    assert tree.pop("standings") == {}
    save_checkpoint(file, tree)
    assert resume(tmp_path / "run", RunCallback())["excluded"] == {}


def test_a_client_that_is_asked_again_leaves_what_it_would_have_left_at_once(experiment_file, tmp_path, fail):
    start(settings(experiment_file, "fedit"), tmp_path / "well", RunCallback())
    fail(lambda message, attempt: message.client == "site1" and attempt < 3)
    result = start(settings(experiment_file, "fedit", ["training.retries=2"]), tmp_path / "ill", RunCallback())
    assert result["retried"] == 2 * 3 and result["quarantined"] == 0
    (well, adapters), (ill, same_adapters) = contents(tmp_path / "well"), contents(tmp_path / "ill")
    assert adapters == same_adapters and ill.count('"retried": 2') == 3
    without = [json.loads(line) | {"retried": 0, "bytes_down": 0} for line in ill.splitlines()]
    assert without == [json.loads(line) | {"retried": 0, "bytes_down": 0} for line in well.splitlines()]


def test_a_client_that_hangs_costs_its_deadline_and_then_nothing(experiment_file, tmp_path, monkeypatch):
    """It is excluded after the first time, and what it does later changes nothing."""
    real, release = FedIt.train, threading.Event()

    def train(self, model, message, *rest):
        if message.client == "site1":
            release.wait(60)
        return real(self, model, message, *rest)

    monkeypatch.setattr(FedIt, "train", train)
    overrides = [*EXCLUDING, "training.readmit_after=9", "training.deadline_seconds=2", "workers=2"]
    began = time.monotonic()
    result = start(settings(experiment_file, "fedit", overrides), tmp_path / "run", RunCallback(), export=False)
    assert time.monotonic() - began < 40
    release.set()
    assert result["excluded"] == {"site1": [[2, 6]]} and result["left_out"]["site1"]["rounds"] == [1]
    assert read_train_lines(tmp_path / "run", "failed")["failed"] == [("site1", 1, True)]
