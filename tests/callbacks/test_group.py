"""Several callbacks as one, one of which fails, alone and in a run."""

import pytest
from helpers.callbacks import Notes
from helpers.mistakes import require_line

from fedpeft.callbacks import CallbackGroup, RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec


class Failing(RunCallback):
    """Raises at one event, and counts how often it is told of any round."""

    def __init__(self, event):
        self.rounds = 0
        setattr(self, event, self.fail)

    def fail(self, *arguments):
        raise ValueError("no\nroom")

    def on_round_end(self, record, validation):
        self.rounds += 1


class Recorder(RunCallback):
    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            self.events.append(name)
        return super().__getattribute__(name)


def test_one_that_fails_is_told_nothing_more_and_the_others_all():
    failing, notes = Failing("on_note"), Notes()
    group = CallbackGroup([CallbackGroup([failing]), notes])
    for line in ("a", "b"):
        group.on_note(line)
    group.on_round_end(None, {})
    assert notes.lines == ["a", "b"] and failing.rounds == 0
    require_line(lambda: group.raise_failure("kept"), "callback Failing.on_note failed: ValueError: no room; kept")
    group.raise_failure("nothing is left to say")


@pytest.mark.parametrize("value", [Notes, print, None])
def test_what_is_no_callback(value):
    words = ["callbacks: expected fedpeft.RunCallback objects"] + ["give an object of it"] * isinstance(value, type)
    require_line(lambda: CallbackGroup([value]), *words)


@pytest.fixture
def spec(experiment_file):
    return RunSpec(load_experiment(experiment_file), "fedit", 0, None, experiment_file.parent)


def test_every_event_of_a_run_in_its_order(spec, tmp_path):
    recorder = Recorder()
    start(spec, tmp_path / "run", recorder, export=False)
    evaluation = ["on_evaluation_start", "on_evaluation_end"]
    a_round = ["on_client_end"] * 3 + evaluation + ["on_round_end"]
    assert recorder.events == ["on_run_start", *a_round * 3, *evaluation * 4, "on_run_end"]


@pytest.mark.parametrize("event", ["on_client_end", "on_evaluation_start", "on_round_end"])
def test_a_run_ends_with_the_round_in_which_a_callback_fails_and_goes_on_from_there(spec, tmp_path, event):
    whole = start(spec, tmp_path / "whole", RunCallback(), export=False)
    recorder, path = Recorder(), tmp_path / "run"
    group = CallbackGroup([Failing(event), recorder])
    line = f"callback Failing.{event} failed: ValueError: no room; round 1 is kept: `fedpeft resume {path}` goes on"
    require_line(lambda: start(spec, path, group, export=False), line)
    assert recorder.events[-2:] == ["on_round_end", "on_run_error"]
    assert "ValueError: no\nroom" in (path / "failures.log").read_text()
    assert resume(path, RunCallback(), export=False)["test"] == whole["test"]


def test_a_callback_that_fails_before_the_first_round_or_after_the_last(spec, tmp_path):
    path = tmp_path / "run"
    require_line(lambda: start(spec, path, Failing("on_run_start")), "on_run_start failed", "no round was completed")
    assert not (path / "experiment.yaml").exists()
    finished = lambda: start(spec, path, Failing("on_run_end"), export=False)  # noqa: E731
    require_line(finished, "on_run_end failed", f"the run is finished, its result is in {path}")
    assert resume(path, RunCallback())["rounds"] == 3
