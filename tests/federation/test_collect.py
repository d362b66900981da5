"""Clients that are asked again: how often, with which time left, and what is told of them."""

import time
from collections import Counter

import torch
from helpers.federations import answer_with, build_federation, reply_to

from fedpeft.federation.message import wire_size


def fail_times(client, times, then=reply_to):
    """This client gives no reply that many times."""
    calls = Counter()

    def answer(message):
        calls[message.client] += 1
        fails = message.client == client and calls[client] <= times
        return answer_with({client: lambda m: f"failure {calls[client]}"} if fails else {client: then})(message)

    return answer, calls


def test_a_client_without_a_reply_is_asked_again_in_the_same_round():
    answer, calls = fail_times("c2", 2)
    federation, finished = build_federation(answer, retries=3), []
    record = federation.step(finished.append)
    assert calls == {"c0": 1, "c1": 1, "c2": 3, "c3": 1}
    assert record.retried == {"c2": 2} and not record.quarantined and not record.failed
    assert record.bytes_down["c2"] == 3 * record.bytes_down["c1"] == 3 * wire_size(federation.engine.messages[0])
    assert record.client_seconds["c2"] == 0.75 and record.describe_client("c2")["retried"] == 2
    assert [(o.client, o.failure) for o in finished] == [("c0", None), ("c1", None), ("c3", None), ("c2", None)]
    assert torch.equal(federation.state["w"], torch.ones(4))


def test_after_the_last_time_the_last_reason_counts():
    answer, calls = fail_times("c2", 9)
    finished = []
    record = build_federation(answer, retries=2).step(finished.append)
    assert calls["c2"] == 3 and record.retried == {"c2": 2} and record.failed == {"c2"}
    assert record.quarantined == {"c2": "failure 3"}
    assert Counter(outcome.client for outcome in finished) == dict.fromkeys(["c0", "c1", "c2", "c3"], 1)


def test_a_reply_that_was_refused_is_not_asked_for_again():
    answer, calls = fail_times("c2", 0, then=lambda message: {"w": 1})
    record = build_federation(answer, retries=2).step()
    assert calls["c2"] == 1 and record.quarantined == {"c2": "its reply is a dict"} and not record.retried


def test_a_client_of_which_nothing_is_heard_is_asked_again():
    calls = Counter()

    def answer(message):
        calls[message.client] += 1
        return [] if message.client == "c1" and calls["c1"] == 1 else answer_with({})(message)

    record = build_federation(answer, retries=1).step()
    assert record.retried == {"c1": 1} and not record.quarantined and record.scalars.keys() == {"c0", "c1", "c2", "c3"}


def test_nobody_is_asked_again_when_the_rounds_time_is_over_and_each_is_told_of_once():
    answer, calls = fail_times("c2", 9)
    given, finished = [], []

    def answer_slowly(message):
        time.sleep(0.06 if message.client == "c2" else 0)
        return answer(message)

    federation = build_federation(answer_slowly, retries=50, round_deadline_seconds=0.15, deadline_seconds=9)
    train = federation.engine.train
    federation.engine.train = lambda *arguments: given.append(arguments[1:]) or train(*arguments)
    record = federation.step(finished.append)
    assert 2 <= calls["c2"] <= 4 and record.retried["c2"] == calls["c2"] - 1
    lefts = [left for _, left in given]
    assert lefts[0] > 0.14 and lefts == sorted(lefts, reverse=True) and lefts[-1] > 0
    assert {deadline for deadline, _ in given} == {9}
    assert [outcome.client for outcome in finished] == ["c0", "c1", "c3", "c2"] and record.failed == {"c2"}
