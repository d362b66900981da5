import statistics

import pytest
import torch

from fedpeft.federation.message import Reply
from fedpeft.federation.method import get_layout
from fedpeft.federation.screen import is_finite, medians_of_others, screen, update_norm


def reply(client, value=1.0, examples=5, **tensors):
    return Reply(client, 1, tensors or {"w": torch.full((4,), value)}, {"examples": examples})


def screened(replies, norm_limit=10.0):
    sent = {"w": torch.zeros(4)}
    known = {r.client: 5 for r in replies}
    usable, quarantined = screen(
        replies, known, lambda reply: get_layout(sent), lambda reply: None, lambda reply: sent, norm_limit
    )
    return [r.client for r in usable], quarantined


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reply("bad", v=torch.zeros(4)), "keys differ"),
        (reply("bad", w=torch.zeros(4), v=torch.zeros(1)), "unexpected"),
        (reply("bad", w=torch.zeros(5)), "expected"),
        (reply("bad", w=torch.zeros(4, dtype=torch.float64)), "float64"),
        (reply("bad", w=torch.tensor([0.0, float("nan"), 0, 0])), "not finite"),
        (reply("bad", w=torch.tensor([0.0, float("inf"), 0, 0])), "not finite"),
        (reply("bad", examples=0), "number of examples"),
        (reply("bad", examples=float("inf")), "number of examples"),
        (reply("bad", examples=10**9), "number of examples"),
        (reply("bad", value=1000.0), "others' median"),
    ],
)
def test_malformed_replies_are_quarantined_with_the_reason(bad, reason):
    usable, quarantined = screened([reply("a"), bad, reply("c"), reply("d", 2.0)])
    assert usable == ["a", "c", "d"]
    assert list(quarantined) == ["bad"]
    assert reason in quarantined["bad"]


def test_norms_are_left_alone_without_a_limit():
    usable, quarantined = screened([reply("a"), reply("b", 1e6), reply("c")], norm_limit=None)
    assert usable == ["a", "b", "c"] and not quarantined


def test_update_norm_is_the_euclidean_norm_of_the_change():
    before = {"a": torch.ones(2, 2), "b": torch.zeros(3)}
    after = {"a": torch.full((2, 2), 4.0), "b": torch.tensor([0.0, 8.0, 0.0])}
    assert update_norm(after, before) == pytest.approx(10.0)


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 1.0, 9.0], [4.0] * 5, [0.5, 7, 2, 9, 1, 3]])
def test_medians_of_all_the_others_are_those_of_the_lists_without_one(values):
    expected = [statistics.median(values[:i] + values[i + 1 :]) for i in range(len(values))]
    assert medians_of_others(values) == pytest.approx(expected)


def test_large_values_are_finite_and_one_that_is_not_is_found():
    large = torch.full((4,), 3e38)
    assert is_finite([large, torch.tensor([1, 2]), large.bfloat16()])
    assert not is_finite([large, torch.tensor([0.0, float("inf")])])
    assert not is_finite([torch.tensor([float("nan")]), large])
    assert is_finite([])
