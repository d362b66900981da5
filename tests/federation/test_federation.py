"""A round: who is drawn, which replies count, what the record says, and what a method's mistake does."""

import logging

import pytest
import torch
from helpers.federations import EXAMPLES, Mean, answer_with, build_federation, reply_to

from fedpeft.engines.base import Outcome
from fedpeft.errors import NoQuorum, UserError
from fedpeft.federation.message import Reply, wire_size
from fedpeft.federation.method import MethodOptions


class Picky(Mean):
    """Cannot aggregate a 7, nor a 3 together with a 5; a 9 makes its state infinite."""

    def aggregate(self, state, replies):
        values = [float(reply.tensors["w"][0]) for reply in replies]
        if 7.0 in values or {3.0, 5.0} <= set(values):
            raise torch.linalg.LinAlgError("singular")
        return {"w": torch.full((4,), torch.inf)} if 9.0 in values else super().aggregate(state, replies)


def run_picky(*values, **training):
    special = {f"c{i}": lambda message, value=value: reply_to(message, value) for i, value in enumerate(values)}
    picky = Picky(MethodOptions())
    federation = build_federation(answer_with(special), len(values), picky, norm_limit=None, **training)
    return federation, federation.step()


def test_a_round_aggregates_all_replies_and_records_what_travelled():
    finished = []
    federation = build_federation(answer_with({}))
    record = federation.step(finished.append)
    assert torch.equal(federation.state["w"], torch.ones(4)) and federation.round == record.round == 1
    assert [outcome.client for outcome in finished] == ["c0", "c1", "c2", "c3"]
    assert [spec.id for spec in federation.evaluation_clients] == ["c0", "c1", "c2", "c3"]
    assert record.scalars["c2"] == {"examples": EXAMPLES, "loss": 0.5}
    message = federation.engine.messages[0]
    assert record.bytes_down["c0"] == wire_size(message) and record.bytes_up["c0"] == wire_size(reply_to(message))
    assert not record.quarantined and not record.failed and not record.clipped
    assert record.client_seconds == dict.fromkeys(record.bytes_down, 0.25)


def test_what_the_server_knows_of_clients_has_lines_of_its_own():
    class Knowing(Mean):
        def describe_clients(self, state):
            return {"c1": {"cluster": int(state["w"][0]), "round": 9}, "c0": {"cluster": 0}}

    record = build_federation(answer_with({}), 2, Knowing(MethodOptions())).step()
    assert record.describe_server() == [
        {"cluster": 0, "round": 1, "split": "server", "client": "c0"},
        {"cluster": 1, "round": 1, "split": "server", "client": "c1"},
    ]
    assert build_federation(answer_with({}), 2).step().describe_server() == []


@pytest.mark.parametrize(("participation", "count"), [(1.0, 10), (0.5, 5), (0.11, 2), (0.01, 1)])
def test_each_round_draws_its_own_part_of_the_clients(participation, count):
    federation = build_federation(answer_with({}), 10, participation=participation)
    drawn = [[spec.id for spec in federation.select(round_)] for round_ in range(1, 9)]
    assert all(len(ids) == count and ids == sorted(ids) for ids in drawn)
    assert drawn == [[spec.id for spec in federation.select(round_)] for round_ in range(1, 9)]
    if count in (2, 5):
        assert len({tuple(ids) for ids in drawn}) > 1 and len({id for ids in drawn for id in ids}) > count


BAD = {
    "scalars null": lambda m: Reply(m.client, m.round, m.tensors, None),
    "scalars list": lambda m: Reply(m.client, m.round, m.tensors, []),
    "scalars number": lambda m: Reply(m.client, m.round, m.tensors, 3),
    "meta device": lambda m: reply_to(m).__class__(m.client, 1, {"w": torch.zeros(4, device="meta")}, {}),
    "sparse": lambda m: Reply(m.client, 1, {"w": torch.zeros(4).to_sparse()}, {"examples": EXAMPLES}),
    "no tensor": lambda m: Reply(m.client, 1, {"w": [0.0] * 4}, {"examples": EXAMPLES}),
    "tensors null": lambda m: Reply(m.client, 1, None, {"examples": EXAMPLES}),
    "no message": lambda m: {"w": 1},
    "another client": lambda m: Reply("c3", 1, m.tensors, {"examples": EXAMPLES}),
    "another round": lambda m: Reply(m.client, 2, m.tensors, {"examples": EXAMPLES}),
    "round true": lambda m: Reply(m.client, True, m.tensors, {"examples": EXAMPLES}),
    "long text": lambda m: reply_to(m, note="x" * 5_000_000),
    "many scalars": lambda m: reply_to(m, **{f"s{i}": i for i in range(100_000)}),
    "key of the log": lambda m: reply_to(m, quarantined="nobody"),
    "loss of text": lambda m: reply_to(m, loss="low"),
    "loss of nan": lambda m: reply_to(m, loss=float("nan")),
    "examples of true": lambda m: reply_to(m, examples=True),
    "nothing": lambda m: "out of memory\n" * 1000,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_malformed_reply_costs_only_its_sender(bad):
    federation = build_federation(answer_with({"c1": bad}))
    record = federation.step()
    assert list(record.quarantined) == ["c1"] and "c1" not in record.scalars
    reason = record.quarantined["c1"]
    assert len(reason) < 300 and reason.isprintable()
    assert torch.equal(federation.state["w"], torch.ones(4))


def test_who_failed_is_told_from_whose_reply_was_refused():
    special = {"c0": lambda m: "RuntimeError: no memory", "c1": lambda m: reply_to(m, loss="x")}
    record = build_federation(answer_with(special)).step()
    assert record.failed == {"c0"} and record.quarantined.keys() == {"c0", "c1"}
    assert record.quarantined["c0"] == "RuntimeError: no memory"


def test_two_replies_of_one_client_count_as_none_and_a_client_that_was_not_asked_as_nothing():
    def answer(message):
        outcomes = [Outcome(message.client, reply_to(message), None, 0.1)]
        if message.client == "c1":
            outcomes += [Outcome("c1", reply_to(message, 1.5), None, 0.1)]
        if message.client == "c2":
            outcomes += [Outcome("stranger", reply_to(message), None, 0.1)]
        return [] if message.client == "c3" else outcomes

    federation = build_federation(answer)
    record = federation.step()
    assert record.quarantined == {"c1": "more than one reply came from it", "c3": "no reply came from it"}
    assert record.failed == {"c3"} and record.scalars.keys() == {"c0", "c2"}
    assert "stranger" not in record.client_seconds and torch.equal(federation.state["w"], torch.ones(4))


def test_below_the_quorum_the_state_stays_and_each_reason_is_told_once():
    special = {f"c{i}": lambda m: "NameError: name 'tensr' is not defined" for i in range(5)}
    federation = build_federation(answer_with(special), 6)
    with pytest.raises(NoQuorum) as error:
        federation.step()
    text = str(error.value)
    assert text.startswith("round 1: 1 of 6 clients replied usably, the quorum is 3 (c0, c1, c2 and 2 more: NameError")
    assert text.count("NameError") == 1 and "learning rate" not in text
    assert federation.round == 0 and torch.equal(federation.state["w"], torch.zeros(4))


def test_a_later_round_below_the_quorum_says_what_is_kept():
    federation = build_federation(lambda m: answer_with({} if m.round == 1 else {"c0": lambda m: "x"})(m), 1)
    federation.step()
    with pytest.raises(NoQuorum, match="what round 1 left is kept"):
        federation.step()
    assert federation.round == 1


def test_a_reply_that_the_method_cannot_aggregate_is_left_out():
    federation, record = run_picky(1, 7, 2)
    assert record.quarantined == {"c1": "its reply cannot be aggregated: LinAlgError: singular"}
    assert torch.equal(federation.state["w"], torch.full((4,), 1.5))


def test_one_of_two_replies_that_do_not_go_together_is_left_out():
    federation, record = run_picky(1, 3, 5)
    assert record.quarantined.keys() == {"c1"} and "others' replies cannot be aggregated with it" in str(record)
    assert torch.equal(federation.state["w"], torch.full((4,), 3.0))


def test_a_reply_that_makes_the_state_infinite_is_left_out():
    federation, record = run_picky(1, 2, 9)
    assert record.quarantined == {"c2": "its reply cannot be aggregated: ValueError: the aggregate is not finite"}
    assert torch.equal(federation.state["w"], torch.full((4,), 1.5))


def test_the_quorum_holds_for_what_could_be_aggregated():
    with pytest.raises(NoQuorum, match=r"1 of 3 .*cannot be aggregated: LinAlgError: singular"):
        run_picky(7, 7, 1)


def test_a_method_that_can_aggregate_nothing_is_told_by_its_own_error(caplog):
    class Broken(Mean):
        def aggregate(self, state, replies):
            return undefined_name  # noqa: F821

    federation = build_federation(answer_with({}), method=Broken(MethodOptions()))
    with caplog.at_level(logging.ERROR), pytest.raises(UserError, match=r"NameError.*no round was completed"):
        federation.step()
    assert "undefined_name" in caplog.text and "Traceback" in caplog.text
    assert torch.equal(federation.state["w"], torch.zeros(4))


def test_what_clients_deploy_is_what_they_would_be_sent_next():
    federation = build_federation(answer_with({}))
    federation.step()
    messages = federation.deployment_messages()
    assert [(m.client, m.round) for m in messages] == [(f"c{i}", 2) for i in range(4)]
    assert all(torch.equal(m.tensors["w"], torch.ones(4)) for m in messages)
