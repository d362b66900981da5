"""Who is drawn, whose replies are kept, who sits out: the pure rules, and a federation that goes by them."""

import pytest
from helpers.federations import answer_with, build_federation, reply_to

from fedpeft.federation.message import Reply
from fedpeft.federation.policy import (
    Standing,
    count_needed,
    count_quorum,
    draw_clients,
    keep_needed,
    update_standings,
)
from fedpeft.federation.training_config import TrainingConfig

IDS = [f"c{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("participation", "quorum", "needed", "least"),
    [(1.0, 0.5, 30, 15), (0.1, 1.0, 3, 3), (0.11, 0.5, 4, 2), (0.001, 0.01, 1, 1), (1.0, 0.51, 30, 16)],
)
def test_what_a_round_wants_and_what_it_cannot_do_without(participation, quorum, needed, least):
    training = TrainingConfig(participation=participation, quorum=quorum)
    assert count_needed(training, 30) == needed and count_quorum(training, 30) == least


def test_over_selection_asks_the_same_clients_and_more():
    for round_ in range(1, 20):
        few = draw_clients(TrainingConfig(participation=0.4), IDS, {}, 0, round_)
        more = draw_clients(TrainingConfig(participation=0.4, over_selection=0.5), IDS, {}, 0, round_)
        assert more[:4] == few and len(set(more)) == 6
    assert len(draw_clients(TrainingConfig(participation=0.4, over_selection=9), IDS, {}, 0, 1)) == 10


def test_an_excluded_client_is_passed_over_and_the_others_keep_their_order():
    training = TrainingConfig(participation=0.4)
    standings = {"c3": Standing(3, 7), "c4": Standing(2, 0), "gone": Standing(5, 9)}
    for round_ in range(1, 8):
        order = draw_clients(TrainingConfig(), IDS, {}, 0, round_)
        order.remove("c3")
        assert draw_clients(training, IDS, standings, 0, round_) == order[:4]
    assert set(draw_clients(TrainingConfig(), IDS, standings, 0, 8)) == set(IDS)


def test_exclusion_never_costs_the_quorum():
    """Of those excluded the ones whose time ends first are asked."""
    standings = {f"c{i}": Standing(3, 20 - i) for i in range(8)}
    drawn = draw_clients(TrainingConfig(quorum=0.5), IDS, standings, 0, 5)
    assert sorted(drawn) == ["c5", "c6", "c7", "c8", "c9"]
    assert sorted(draw_clients(TrainingConfig(quorum=0.2), IDS, standings, 0, 5)) == ["c8", "c9"]


def test_those_drawn_first_are_kept_in_whichever_order_they_came():
    replies = [Reply(client, 1, {}) for client in ("c0", "c1", "c5", "c9")]
    drawn = ["c9", "c7", "c5", "c0", "c1"]
    assert [reply.client for reply in keep_needed(replies, drawn, 2)] == ["c5", "c9"]
    assert [reply.client for reply in keep_needed(replies[::-1], drawn, 3)] == ["c9", "c5", "c0"]
    assert keep_needed(replies, drawn, 4) == replies == keep_needed(replies, drawn, 9)


def test_a_client_sits_out_after_failures_in_a_row_and_again_after_the_next():
    training = TrainingConfig(exclude_after=2, readmit_after=3)
    first = update_standings(training, {}, {"a", "b"}, {"a"}, 1)
    assert first == {"a": Standing(1, 0)}
    assert update_standings(training, first, {"b"}, set(), 2) == first  # it was not asked
    assert update_standings(training, first, {"a"}, set(), 2) == {}
    second = update_standings(training, first, {"a", "b"}, {"a", "b"}, 2)
    assert second == {"a": Standing(2, 5), "b": Standing(1, 0)}
    assert [second["a"].is_excluded(round_) for round_ in (3, 5, 6)] == [True, True, False]
    assert update_standings(training, second, {"a"}, {"a"}, 6)["a"] == Standing(3, 9)
    assert update_standings(training, second, {"a"}, set(), 6) == {"b": Standing(1, 0)}
    assert update_standings(TrainingConfig(), second, {"a"}, {"a"}, 6) == {}


# ---- in a federation


def failing_until(rounds):
    """c1 gives no reply up to this round."""
    return answer_with({"c1": lambda message: "no memory" if message.round <= rounds else reply_to(message)})


def test_a_client_that_keeps_failing_sits_out_comes_back_and_is_told_of():
    federation = build_federation(failing_until(5), exclude_after=2, readmit_after=2)
    records = [federation.step() for _ in range(8)]
    assert [record.round for record in records if "c1" in record.bytes_down] == [1, 2, 5, 8]
    assert [(r.round, r.excluded) for r in records if r.excluded] == [(2, {"c1": 4}), (5, {"c1": 7})]
    assert [(r.round, r.readmitted) for r in records if r.readmitted] == [(5, {"c1"}), (8, {"c1"})]
    assert records[1].describe_client("c1")["excluded_until"] == 4 and records[4].describe_client("c1")["readmitted"]
    assert "readmitted" not in records[4].describe_client("c0") and federation.standings == {}


def test_where_nobody_fails_the_policy_changes_nothing():
    records = []
    for policy in ({}, {"exclude_after": 1, "retries": 3, "round_deadline_seconds": 60, "deadline_seconds": 60}):
        federation = build_federation(answer_with({}), 10, participation=0.4, **policy)
        records.append([federation.step() for _ in range(4)])
    for plain, other in zip(*records, strict=True):
        assert [plain.describe_client(c) for c in plain.bytes_down] == [
            other.describe_client(c) for c in other.bytes_down
        ]


def test_a_client_that_was_asked_too_many_stands_in_for_one_that_failed():
    federation = build_federation(answer_with({}), 10, participation=0.4, over_selection=0.25)
    drawn = draw_clients(federation.training, IDS, {}, 0, 1)
    record = federation.step()
    assert record.surplus == {drawn[4]} and record.describe_client(drawn[4])["surplus"]
    federation = build_federation(answer_with({drawn[1]: lambda message: "late"}), 10, participation=0.4,
                                  over_selection=0.25)  # fmt: skip
    values = {client: float(i) for i, client in enumerate(drawn)}
    federation.engine.answer = answer_with(
        {c: (lambda m, v=v: "late" if m.client == drawn[1] else reply_to(m, v)) for c, v in values.items()}
    )
    record = federation.step()
    assert record.surplus == set() and record.quarantined == {drawn[1]: "late"}
    assert federation.state["w"][0] == pytest.approx((0 + 2 + 3 + 4) / 4)


def test_the_quorum_is_of_what_the_round_wants_and_not_of_all_that_were_asked():
    drawn = draw_clients(TrainingConfig(participation=0.4, over_selection=1), IDS, {}, 0, 1)
    special = dict.fromkeys(drawn[:6], lambda message: "late")
    federation = build_federation(answer_with(special), 10, participation=0.4, over_selection=1)
    assert federation.step().surplus == set()
