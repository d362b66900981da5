"""What a peer's scores must hold to be used."""

import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedpeft[flower]'")

from fedpeft.engines.flower.remote import read_scores
from fedpeft.runs.result import average

GOOD = {"accuracy": 0.5, "loss": 1.0, "examples": 4}


def test_scores_come_back_with_what_else_they_hold():
    assert read_scores(GOOD | {"macro_f1": 0.25}, "accuracy") == GOOD | {"macro_f1": 0.25}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"loss": 1.0, "examples": 4}, "its scores lack accuracy"),
        ({"accuracy": 1.0}, "its scores lack loss, examples"),
        (GOOD | {"accuracy": "high"}, "not numbers by name"),
        (GOOD | {"accuracy": True}, "not numbers by name"),
        (GOOD | {"examples": 0}, "of 0 examples"),
        (GOOD | {"examples": 4.5}, "of 4.5 examples"),
        (GOOD | {"round": 7}, "'round' is no name of a score"),
        (GOOD | {"x\x1b[31m": 7}, "is no name of a score"),
        (GOOD | {f"s{i}": 0.5 for i in range(1000)}, "not numbers by name"),
    ],
)
def test_scores_that_a_run_cannot_use_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        read_scores(scores, "accuracy")


def test_a_score_that_not_every_client_sends_has_no_mean():
    others = average({"a": GOOD | {"macro_f1": 0.25}, "b": GOOD}, "accuracy")
    assert others["by_client"] == 0.5 and "macro_f1" not in others
