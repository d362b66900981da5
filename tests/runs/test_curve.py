"""A run's course, from its logs."""

import pytest

from fedpeft.runs.curve import make_curve


def train(round_, client="a", down=100, up=10):
    return {"round": round_, "split": "train", "client": client, "bytes_down": down, "bytes_up": up}


def validate(round_, client, score, model="received", loss=1.0):
    return {"round": round_, "split": "validation", "model": model, "client": client, "accuracy": score, "loss": loss}


def time(round_, seconds, peak=None):
    return {"round": round_, "client_seconds": seconds} | ({} if peak is None else {"peak_memory_mib": peak})


TIMINGS = [time(1, {"a": 1.0, "b": 2.0}, 50.0), time(2, {"a": 1.5}, 90.0), time(3, {"a": 0.5}, 70.0)]
TRAIN = [train(1), train(1, "b", up=0), train(2), train(3)]


def test_costs_add_up_over_rounds_and_scores_stand_where_there_was_validation():
    metrics = [*TRAIN, validate(1, "a", 0.2), validate(1, "b", 0.4), validate(3, "a", 0.6), validate(3, "b", 0.8)]
    metrics.append({"round": 3, "split": "test", "model": "received", "client": "a", "accuracy": 1.0})
    curve = make_curve(metrics, TIMINGS, "accuracy", "validation")
    first, last = curve["points"]
    assert curve["model"] == "received"
    assert first == {
        "round": 1, "score": pytest.approx(0.3), "bytes": 210, "client_seconds": 3.0, "peak_memory_mib": 50.0,
    }  # fmt: skip
    assert last == {
        "round": 3, "score": pytest.approx(0.7), "bytes": 430, "client_seconds": 5.0, "peak_memory_mib": 90.0,
    }  # fmt: skip


@pytest.mark.parametrize(("rule", "score"), [("validation", 0.65), ("received", 0.45), ("trained", 0.6)])
def test_where_both_models_were_validated_the_score_is_of_those_that_clients_would_deploy(rule, score):
    received = [validate(1, "a", 0.4), validate(1, "b", 0.5)]
    trained = [validate(1, "a", 0.8, "trained"), validate(1, "b", 0.4, "trained")]
    curve = make_curve([*TRAIN, *received, *trained], TIMINGS, "accuracy", rule)
    assert curve["model"] == "deployed" and curve["points"][0]["score"] == pytest.approx(score)
    lines = [*TRAIN, *received, *trained, validate(2, "a", 0.1), validate(2, "b", 0.2)]
    curve = make_curve(lines, TIMINGS, "accuracy", rule)  # after the last round both are validated in any case
    assert curve["model"] == "received" and [p["score"] for p in curve["points"]] == pytest.approx([0.45, 0.15])


def test_logs_of_earlier_versions():
    lines = [train(1), validate(1, "a", 0.5, "personal")]
    curve = make_curve(lines, [time(1, {"a": 1.0})], "accuracy", "received")
    assert curve["points"][0]["peak_memory_mib"] is None and curve["points"][0]["score"] == 0.5
