"""Which positions are edited, against a loop over rows written from the rule in words."""

import math

import pytest
import torch

from fedpeft.adapters.reft.positions import Positions, PromptTracker
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


class Model(torch.nn.Module):
    def forward(self, input_ids=None, attention_mask=None, labels=None, past_key_values=None):
        return None


class Cache:
    def __init__(self, size: int) -> None:
        self.size = size

    def get_seq_length(self) -> int:
        return self.size


@pytest.fixture
def tracker() -> PromptTracker:
    return PromptTracker(Model())


def chosen(tracker: PromptTracker, text: str) -> list[list[int]] | None:
    mask = tracker.get_mask(Positions.parse(text), True, 1, torch.float32)
    return None if mask is None else [row.nonzero().flatten().tolist() for row in mask[..., 0]]


def test_the_prompt_ends_before_the_first_answer_label(tracker):
    labels = torch.tensor([[-100, -100, 5, -100, 6], [-100, -100, -100, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    ids = torch.zeros(2, 5, dtype=torch.long)
    tracker.begin(Model(), (), {"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert chosen(tracker, "l1") == [[1], [4]]
    assert chosen(tracker, "all") == [[0, 1], [1, 2, 3, 4]]


def test_class_labels_are_not_taken_for_token_labels(tracker):
    ids = torch.zeros(2, 2, dtype=torch.long)
    tracker.begin(Model(), (ids,), {"labels": torch.tensor([1, 0])})
    assert chosen(tracker, "all") is None  # every position, without a mask
    assert chosen(tracker, "l1") == [[1], [1]]


def test_arguments_given_by_position_are_read(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    tracker.begin(Model(), (ids, torch.tensor([[0, 1, 1]]), torch.tensor([[-100, -100, 7]])), {})
    assert chosen(tracker, "f1") == [[1]]


def test_tokens_behind_a_filled_cache_are_not_prompt(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    tracker.begin(Model(), (ids,), {"past_key_values": Cache(0)})
    assert tracker.is_editing
    tracker.begin(Model(), (ids,), {"past_key_values": Cache(4)})
    assert not tracker.is_editing


def test_generation_without_a_cache_keeps_the_first_prompt_and_then_forgets_it(tracker):
    with tracker.hold_prompt():
        tracker.begin(Model(), (torch.zeros(1, 3, dtype=torch.long),), {})
        assert chosen(tracker, "l1") == [[2]]
        tracker.begin(Model(), (torch.zeros(1, 5, dtype=torch.long),), {})
        assert chosen(tracker, "l1") == [[2]]
        assert chosen(tracker, "all") == [[0, 1, 2]]
    tracker.begin(Model(), (torch.zeros(1, 5, dtype=torch.long),), {})
    assert chosen(tracker, "l1") == [[4]]


def test_a_mask_that_is_not_batch_by_length_is_refused(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"\(1, 3\).*Received: \(1, 1, 3, 3\)"):
        tracker.begin(Model(), (ids,), {"attention_mask": torch.ones(1, 1, 3, 3)})
