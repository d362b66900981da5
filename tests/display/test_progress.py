"""What the live display counts and says, without a run behind it."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedpeft.callbacks import RunInfo
from fedpeft.display import ProgressDisplay
from fedpeft.engines.base import Outcome
from fedpeft.federation.method import Method
from fedpeft.federation.record import RoundRecord
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.runs.runner import count_evaluations

CLIENTS = ["a", "b", "c"]


def describe(training, label="fedit", completed=0, **changes):
    experiment = SimpleNamespace(training=training)
    total = count_evaluations(training, Method, training.rounds, with_end=True)
    done = count_evaluations(training, Method, completed, with_end=False)
    run = RunInfo(Path(), label, label, 0, experiment, {}, "accuracy", tuple(CLIENTS), 2, total, done, completed)
    return replace(run, **changes)


@pytest.fixture
def display():
    return ProgressDisplay(Console(file=io.StringIO(), width=200))


def text(display):
    return display.console.file.getvalue()


def counts(display):
    (task,) = display.progress.tasks
    return task.completed, task.total


def play_round(display, round_, quarantined=None, validated=True, score=0.5):
    for client in CLIENTS[:2]:
        display.on_client_end(Outcome(client, None, None, 1.0))
    if validated:
        display.on_evaluation_start("validation", 3)
        assert display.progress.tasks[0].fields["stage"] == "validating"
        display.on_evaluation_end("validation", 3)
    record = RoundRecord(round_, {"a": 2**20}, quarantined=quarantined or {})
    display.on_round_end(record, {"a": {"accuracy": score}} if validated else {})


def test_evaluations_are_steps_of_their_own_and_the_end_is_the_end(display):
    training = TrainingConfig(rounds=4, evaluate_every=2)
    display.on_run_start(describe(training, number=2, count=6))
    assert counts(display) == (0, 4 * 2 + 2 * 3 + 4 * 3)  # training, two validations, two models on two splits
    for round_ in range(1, 5):
        assert display.progress.tasks[0].fields["stage"] == f"round {round_}/4"
        play_round(display, round_, validated=round_ % 2 == 0)
    assert counts(display) == (14, 26)
    for _ in range(2):
        display.on_evaluation_start("validation", 3)
        display.on_evaluation_end("validation", 3)
    for _ in range(2):
        display.on_evaluation_start("test", 3)
        assert display.progress.tasks[0].fields["stage"] == "testing"
        display.on_evaluation_end("test", 3)
    assert counts(display) == (26, 26)
    task = display.progress.tasks[0]
    assert task.description == "[2/6] fedit"
    assert task.fields["validation"] == " · validation 50.0 %" and task.fields["sent"] == " · 4.0 MiB"
    display.on_evaluation_start("cross", 3)
    assert counts(display) == (26, 29)


def test_a_resumed_run_begins_where_it_was(display):
    training = TrainingConfig(rounds=4, before_aggregation=False)
    display.on_run_start(describe(training, completed=3))
    assert counts(display) == (3 * 2 + 3 * 3, 4 * 2 + 4 * 3 + 2 * 3)
    assert display.progress.tasks[0].fields["stage"] == "round 4/4"


def test_a_client_that_is_left_out_is_told_once(display):
    display.on_run_start(describe(TrainingConfig(rounds=4)))
    for round_ in (1, 2, 3):
        play_round(display, round_, {"b": "NameError: \x1b[31mx"})
    play_round(display, 4, {"a": "late"})
    assert text(display).splitlines() == [
        "fedit, round 1: client b is left out: NameError: \\x1b[31mx",
        "fedit, round 4: client a is left out: late",
    ]


def test_what_the_rounds_policy_does_is_told_and_the_line_still_ends_at_its_end(display):
    """Of two clients a round one sits out rounds 2 and 3; one is asked again in two rounds."""
    display.on_run_start(describe(TrainingConfig(rounds=4, evaluate_every=0)))
    records = [
        RoundRecord(1, {"a": 1, "b": 1}, quarantined={"b": "late"}, retried={"b": 1}, excluded={"b": 3}),
        RoundRecord(2, {"a": 1}, retried={"a": 2}),
        RoundRecord(3, {"a": 1}, retried={"a": 1}),
        RoundRecord(4, {"a": 1, "b": 1}, readmitted={"b"}),
    ]
    for record in records:
        for client in record.bytes_down:
            display.on_client_end(Outcome(client, None, None, 1.0))
        display.on_round_end(record, {})
    assert text(display).splitlines() == [
        "fedit, round 1: client b is left out: late",
        "fedit, round 1: client b is excluded until round 3 is over: no usable reply for some rounds in a row",
        "fedit, round 2: client a answered when it was asked again",
        "fedit, round 4: client b is asked again after its exclusion",
    ]
    assert counts(display)[0] == 4 * 2


def test_a_note_is_told_once_however_many_runs_have_it(display):
    for label in ("fedit", "fedreft"):
        display.on_run_start(describe(TrainingConfig(rounds=1), label, notes=("a note",)))
    assert text(display) == "a note\n" and display.progress.tasks[0].description == "fedreft"


def test_where_there_is_no_terminal_a_line_now_and_then(display, monkeypatch):
    display.on_run_start(describe(TrainingConfig(rounds=2)))
    play_round(display, 1)
    assert text(display) == ""
    display.last_line -= 11
    play_round(display, 2)
    assert text(display) == "fedit: round 2/2, validation 50.0 %\n"


def test_where_no_run_begins_nothing_is_printed(display):
    with display:
        pass
    assert text(display) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_the_line_on_a_terminal_says_count_stage_score_and_bytes(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with ProgressDisplay(console) as display:
        display.on_run_start(describe(TrainingConfig(rounds=20), "fedavg_loreft", number=2, count=12))
        play_round(display, 1)
        display.progress.refresh()
        display.on_evaluation_start("validation", 3)
        display.progress.refresh()
    text = console.file.getvalue()
    assert "[2/12] fedavg_loreft" in text and "5/112" in text and "…" not in text
    assert "round 2/20 · validation 50.0 % · 1.0 MiB" in text and "validating · validation 50.0 %" in text


@pytest.mark.parametrize(
    ("width", "encoding", "course"), [(120, "utf-8", " ▁█▅"), (80, "utf-8", ""), (120, "ascii", "")]
)
def test_the_course_of_the_score_is_drawn_where_there_is_room_and_a_character_for_it(width, encoding, course):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    with ProgressDisplay(Console(file=file, width=width, force_terminal=True, color_system=None)) as display:
        display.on_run_start(describe(TrainingConfig(rounds=20), "fedavg_loreft", number=2, count=12))
        for round_, score in enumerate((0.5, 0.9, 0.74), 1):
            play_round(display, round_, score=score)
        assert display.progress.tasks[0].fields["validation"] == f" · validation 74.0 %{course}"
        display.on_run_start(describe(TrainingConfig(rounds=20), "fedit"))  # the next has a course of its own
        play_round(display, 1)
        assert display.progress.tasks[0].fields["validation"] == " · validation 50.0 %"
