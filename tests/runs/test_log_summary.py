"""What the logs say: averages over clients, bytes, replies left out; a damaged one is one line."""

import json

import pytest

from fedpeft.errors import UserError
from fedpeft.runs.log_summary import _list_exclusions, average, read_log
from fedpeft.runs.run_files import RunFiles


def test_clients_count_alike_and_by_examples_and_the_worst_stands_apart():
    scores = {
        "a": {"accuracy": 1.0, "loss": 0.2, "examples": 10},
        "b": {"accuracy": 0.5, "loss": 0.6, "examples": 30},
    }
    averages = average(scores, "accuracy")
    assert averages == {
        "by_client": 0.75,
        "by_example": pytest.approx(0.625),
        "worst_client": 0.5,
        "accuracy": 0.75,
        "loss": pytest.approx(0.4),
    }


DAMAGED = r"metrics\.jsonl or timings\.jsonl in .* is damaged .*; put it back, or remove .* start the run again"


def line(**values):
    return {"round": 1, "client": "a", "split": "train", "bytes_down": 100, "bytes_up": 0} | values


def write(folder, lines, timings=()):
    for name, own in (("metrics.jsonl", lines), ("timings.jsonl", timings)):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in own))
    return read_log(RunFiles(folder), "accuracy", "received")


def test_bytes_up_are_of_the_replies_that_came_and_scores_of_each_round_that_was_evaluated(tmp_path):
    scores = {"split": "validation", "accuracy": 0.5, "loss": 1.0, "examples": 4}
    log = write(
        tmp_path,
        [
            line(bytes_up=40),
            line(client="b", bytes_up=60),
            line(client="c", bytes_down=400, quarantined="it failed"),
            line(round=10) | scores | {"accuracy": 1.0},
            line(round=9) | scores,
            line(round=9, client="b") | scores | {"accuracy": 0.0},
            line(round=10, split="test"),
        ],
    )
    assert (log.bytes_down, log.bytes_up, log.quarantined) == (200, 50, 1)
    assert list(log.validation) == ["9", "10"]
    assert (log.validation["9"]["by_client"], log.validation["10"]["by_client"]) == (0.25, 1.0)
    assert write(tmp_path, [line()]).bytes_up == 0.0


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [3],
        [[]],
        [{}],
        [line(bytes_down=None)],
        [line(bytes_down="1"), line()],
        [line(), line(split="validation")],
        [line(), line(split="validation", accuracy="high", examples=1)],
        [line(), line(split="validation", accuracy=1.0, examples=0)],
        [line(), line(split="validation", client=[])],
        [line(), line(split="validation", round={})],
    ],
)
def test_a_damaged_log_is_one_line(tmp_path, lines):
    with pytest.raises(UserError, match=DAMAGED):
        write(tmp_path, lines)


@pytest.mark.parametrize("timing", [3, {}, {"round": "one"}, {"round": 1}, {"round": 1, "client_seconds": [1]}])
def test_a_damaged_log_of_times_is_the_same_line(tmp_path, timing):
    with pytest.raises(UserError, match=DAMAGED):
        write(tmp_path, [line()], [timing])


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize("content", [b"{", b"\xff\n", b"[" * 100_000])
def test_a_log_that_is_no_json_is_one_line(tmp_path, content, name):
    write(tmp_path, [line()])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=DAMAGED):
        read_log(RunFiles(tmp_path), "accuracy", "received")


def test_the_rounds_that_a_client_sat_out_are_those_of_the_run_and_end_when_it_is_asked_again():
    lines = [{"round": round_, "client": "a"} for round_ in range(1, 13)]
    lines += [
        {"round": 2, "client": "b", "excluded_until": 6}, {"round": 4, "client": "b", "readmitted": True},
        {"round": 5, "client": "b", "excluded_until": 9}, {"round": 10, "client": "b", "readmitted": True},
        {"round": 11, "client": "c", "excluded_until": 20}, {"round": 12, "client": "d", "excluded_until": 20},
        {"round": 7, "client": "e", "excluded_until": 9}, {"round": 8, "client": "e", "readmitted": True},
    ]  # fmt: skip
    assert _list_exclusions(lines) == {"b": [[3, 3], [6, 9]], "c": [[12, 12]]}
    assert _list_exclusions(lines[:1]) == {}
