"""Which positions are edited, against a loop over rows written from the rule in words."""

import math

import pytest
import torch

from fedpeft.adapters.reft.positions import Positions
from fedpeft.errors import UserError


def by_hand(prompt_places: list[int], prefix: int, suffix: int) -> tuple[list[int], list[int]]:
    n = len(prompt_places)
    if n < prefix + suffix:
        prefix, suffix = min(prefix, n // 2), min(suffix, math.ceil(n / 2))
    return prompt_places[:prefix], prompt_places[n - suffix :] if suffix else []


@pytest.mark.parametrize("text", ["f7+l7", "f3+l1", "f1+l4", "f3", "l2", "f1"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_prompt_length_on_both_sides(text, side):
    positions, length = Positions.parse(text), 20
    prompt = torch.zeros(length + 1, length, dtype=torch.bool)
    for n in range(length + 1):
        prompt[n, slice(length - n, length) if side == "left" else slice(0, n)] = True
    untied, tied = positions.select(prompt, tied=False), positions.select(prompt, tied=True)
    for n in range(length + 1):
        places = prompt[n].nonzero().flatten().tolist()
        first, last = by_hand(places, positions.prefix, positions.suffix)
        assert not set(first) & set(last)
        assert tied[n, :, 0].nonzero().flatten().tolist() == sorted(first + last)
        if positions.count_groups(tied=False) == 2:
            assert untied[n, :, 0].nonzero().flatten().tolist() == first
            assert untied[n, :, 1].nonzero().flatten().tolist() == last
        else:
            assert torch.equal(untied[n], tied[n])


def test_the_number_of_groups():
    untied = {text: Positions.parse(text).count_groups(tied=False) for text in ("f7+l7", "f3", "l1", "all")}
    assert untied == {"f7+l7": 2, "f3": 1, "l1": 1, "all": 1}
    assert Positions.parse("f7+l7").count_groups(tied=True) == 1


@pytest.mark.parametrize("text", ["", "f0", "7", "l1+f1", "f3+", "+l3", "f3l3", "All", "f-1", 7, None])
def test_other_spellings_are_refused(text):
    with pytest.raises(UserError, match="Received"):
        Positions.parse(text)
