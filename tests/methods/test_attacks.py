"""Every method against every kind of malformed or hostile reply: left out, or of bounded influence; never a crash."""

import pytest
import torch
from helpers.attacks import (
    HOSTILE,
    MALFORMED,
    deploy,
    distance,
    edit_tensors,
    start_federation,
)

from fedpeft.adapters import is_head
from fedpeft.errors import NoQuorum
from fedpeft.federation.state_tree import trees_equal
from fedpeft.methods import list_built_in

METHODS = [name for name in list_built_in() if name != "centralised"]


def prepare(name, hostile):
    """A federation whose next round the hostile reply is in, and its state should that client fail instead."""
    attack = {"now": lambda reply: None}
    federation = start_federation(name, lambda reply: attack["now"](reply))
    before = federation.state, federation.round
    federation.step()
    without = federation.state
    attack["now"] = hostile
    return federation, before, without, attack


@pytest.mark.parametrize("name", METHODS)
def test_a_malformed_reply_is_left_out_and_nothing_else_happens(name):
    federation, before, without, attack = prepare(name, None)
    for kind, hostile in MALFORMED.items():
        federation.state, federation.round = before
        attack["now"] = hostile
        record = federation.step()
        assert list(record.quarantined) == [HOSTILE], kind
        reason = record.quarantined[HOSTILE]
        assert reason.isprintable() and len(reason) < 250, kind
        assert HOSTILE not in record.scalars and trees_equal(federation.state, without), kind


def test_the_one_client_of_a_pooled_method_ends_the_round_with_one_line():
    for kind, hostile in MALFORMED.items():
        federation = start_federation("centralised", hostile, rounds=1)
        if kind == "another client":  # it is c0 itself
            continue
        with pytest.raises(NoQuorum) as error:
            federation.step()
        assert "what round 1 left is kept" in str(error.value) and str(error.value).isprintable(), kind


def scale_from_zero(factor):
    """Where the hostile client would end if it went `factor` times as far, in the direction given."""

    def hostile(federation):
        def answer(reply):
            message = next(m for m in federation.engine.messages if m.client == HOSTILE)
            baseline = federation.method.update_baseline(federation.state, message, reply)
            return edit_tensors(reply, lambda n, t: _go(n, t, baseline, factor))

        return answer

    return hostile


def _go(name, tensor, baseline, factor):
    if "reft_R" in name:
        return -tensor if factor < 0 else tensor  # its rows must stay orthonormal
    if name in baseline:
        return baseline[name] + factor * (tensor - baseline[name])
    return tensor if "lora_A" in name else factor * tensor


def only_head(factor):
    whole = scale_from_zero(factor)

    def hostile(federation):
        answer = whole(federation)
        return lambda reply: edit_tensors(
            reply, lambda n, t: answer(reply).tensors[n] if is_head(n) and n in reply.tensors else t
        )

    return hostile


HOSTILE_KINDS = {
    "the other way": scale_from_zero(-1.0),
    "nine times the other way": scale_from_zero(-9.0),
    "29 times the other way": scale_from_zero(-29.0),
    "1,000 times": scale_from_zero(1e3),
    "1e38 of it": scale_from_zero(1e38),
    "a head of 9 times": only_head(-9.0),
    "zeros": lambda federation: lambda r: edit_tensors(r, lambda n, t: t if "reft_R" in n else 0 * t),
    "dependent rows": lambda federation: (
        lambda r: edit_tensors(
            r, lambda n, t: t[..., :1, :].expand_as(t).clone() if t.dim() > 1 and "reft_R" not in n else t
        )
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_hostile_reply_is_left_out_or_moves_little(name):
    for kind, hostile in HOSTILE_KINDS.items():
        federation, before, without, attack = prepare(name, None)
        federation.state = without
        alone = deploy(federation)
        federation.state, federation.round = before
        start = deploy(federation)
        attack["now"] = hostile(federation)
        record = federation.step()
        assert record.quarantined.keys() <= {HOSTILE}, kind
        attacked = deploy(federation)
        assert all(torch.isfinite(t).all() for t in attacked.values()), kind
        if HOSTILE in record.quarantined:
            assert trees_equal(federation.state, without), kind
            continue
        step = max(distance(alone, start), 1e-3)
        # One of five at CLIP_ABOVE times their way moves the mean by 3.5 / 5 of a step, and more where steps add up.
        assert distance(attacked, alone) <= 1.1 * step, (kind, distance(attacked, alone) / step)
