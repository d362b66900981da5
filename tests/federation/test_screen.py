import pytest
import torch
from helpers.federations import Mean

from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import MethodOptions
from fedpeft.federation.screen import screen

SENT = {"m.layer.0.lora_A.weight": torch.zeros(4), "m.classifier.weight": torch.zeros(4)}
ADAPTER, HEAD = SENT


def reply(client, value=1.0, head=None, examples=5, **scalars):
    tensors = {ADAPTER: torch.full((4,), value), HEAD: torch.full((4,), value if head is None else head)}
    return Reply(client, 1, tensors, {"examples": examples, **scalars})


def with_tensors(client, tensors):
    return Reply(client, 1, tensors, {"examples": 5})


class Strict(Mean):
    def rejection_reason(self, state, reply):
        if reply.scalars.get("loss") == 13.0:
            raise KeyError("no such cluster")
        return "not to my taste" if reply.scalars.get("loss") == 12.0 else None


def apply_screen(replies, norm_limit=10.0, examples=None):
    messages = {r.client: Message(r.client, 1, SENT) for r in replies}
    known = {r.client: 5 for r in replies} | (examples or {})
    return screen(Strict(MethodOptions()), None, messages, replies, known, norm_limit)


BAD = [
    (with_tensors("bad", {ADAPTER: torch.zeros(4)}), "missing"),
    (with_tensors("bad", {**SENT, "v": torch.zeros(1)}), "unexpected"),
    (with_tensors("bad", {**SENT, HEAD: torch.zeros(5)}), "expected (4,)"),
    (with_tensors("bad", {**SENT, HEAD: torch.zeros(4).double()}), "float64"),
    (with_tensors("bad", {**SENT, HEAD: torch.tensor([0.0, float("nan"), 0, 0])}), f"{HEAD}: not finite"),
    (with_tensors("bad", {**SENT, ADAPTER: torch.tensor([0.0, float("inf"), 0, 0])}), f"{ADAPTER}: not finite"),
    (reply("bad", examples=0), "number of examples"),
    (reply("bad", examples=10**9), "number of examples"),
    (reply("bad", examples=5.0), "scalar 'examples': expected int"),
    (reply("bad", loss="low"), "scalar 'loss': expected float, received 'low'"),
    (reply("bad", quarantined="nobody"), "scalar 'quarantined' is not among those of the method: examples, loss"),
    (reply("bad", loss=12.0), "not to my taste"),
    (reply("bad", loss=13.0), "its reply cannot be read: KeyError: 'no such cluster'"),
    (reply("bad", 1000.0), "its adapter's update has norm 2e+03, 1e+03x what the others' median 2 allows"),
    (reply("bad", 1.0, head=-25.0), "its head's update has norm 50, 25x what the others' median 2 allows"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_malformed_replies_are_quarantined_with_the_reason(bad, reason):
    screened = apply_screen([reply("a"), bad, reply("c"), reply("d", 2.0)])
    assert [r.client for r in screened.usable] == ["a", "c", "d"]
    assert list(screened.quarantined) == ["bad"] and reason in screened.quarantined["bad"]
    assert not screened.clipped


def test_an_update_that_goes_too_far_is_cut_down_by_part_and_the_others_are_passed_on():
    near, far = reply("a"), reply("b", -5.0, head=2.0)
    screened = apply_screen([near, far, reply("c"), reply("d")])
    assert screened.usable[0] is near and screened.clipped == {"b": 0.5} and not screened.quarantined
    tensors = screened.usable[1].tensors
    torch.testing.assert_close(tensors[ADAPTER], torch.full((4,), -2.5))
    assert tensors[HEAD] is far.tensors[HEAD] and float(far.tensors[ADAPTER][0]) == -5.0


def test_a_client_of_more_examples_may_go_further_by_the_root():
    known = {"a": 5, "b": 80, "c": 5, "d": 5}
    for value, clipped in ((9.9, {}), (11.0, {"b"})):
        replies = [reply("a"), reply("b", value, examples=80), reply("c"), reply("d")]
        assert apply_screen(replies, examples=known).clipped.keys() == set(clipped)


def test_a_client_of_few_examples_may_go_as_far_as_the_others():
    replies = [reply("a", examples=500), reply("b", 2.4), reply("c", examples=500), reply("d", examples=500)]
    assert not apply_screen(replies, examples={"a": 500, "c": 500, "d": 500}).clipped


def test_without_a_limit_or_of_two_only_the_absolute_one_holds():
    for screened in (apply_screen([reply("a"), reply("b", 1e4), reply("c")], None),
                     apply_screen([reply("a"), reply("b", 1e4)])):  # fmt: skip
        assert len(screened.usable) > 1 and not screened.quarantined and not screened.clipped
    for value in (1e6, 1e38):
        screened = apply_screen([reply("a"), reply("b", value)], None)
        assert list(screened.quarantined) == ["b"] and "where no training goes" in screened.quarantined["b"]


def test_where_the_others_stand_still_nothing_is_compared():
    screened = apply_screen([reply("a", 0.0), reply("b", 5.0), reply("c", 0.0)])
    assert len(screened.usable) == 3 and not screened.clipped
