"""Which tokens of a forward are the prompt, by its attention mask, labels, cache and what the caller says."""

import warnings

import pytest
import torch
from transformers import GenerationMixin

from fedpeft.adapters.reft.positions import Positions
from fedpeft.adapters.reft.prompt import PromptTracker
from fedpeft.errors import UserError


class CausalModel(GenerationMixin, torch.nn.Module):
    def forward(self, input_ids=None, attention_mask=None, labels=None, past_key_values=None):
        return None


class Cache:
    def __init__(self, size: int) -> None:
        self.size = size

    def get_seq_length(self) -> int:
        return self.size


@pytest.fixture
def tracker() -> PromptTracker:
    return PromptTracker(CausalModel())


def chosen(tracker: PromptTracker, text: str) -> list[list[int]] | None:
    mask = tracker.prompt.get_mask(Positions.parse(text), True, 1, torch.float32)
    return None if mask is None else [row.nonzero().flatten().tolist() for row in mask[..., 0]]


def test_the_prompt_ends_before_the_first_answer_label(tracker):
    labels = torch.tensor([[-100, -100, 5, -100, 6], [-100, -100, -100, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    ids = torch.zeros(2, 5, dtype=torch.long)
    tracker.begin(CausalModel(), (), {"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert chosen(tracker, "l1") == [[1], [4]]
    assert chosen(tracker, "all") == [[0, 1], [1, 2, 3, 4]]


def test_class_labels_are_not_taken_for_token_labels(tracker):
    ids = torch.zeros(2, 2, dtype=torch.long)
    tracker.begin(CausalModel(), (ids,), {"labels": torch.tensor([1, 0])})
    assert chosen(tracker, "all") is None  # every position, without a mask
    assert chosen(tracker, "l1") == [[1], [1]]


def test_arguments_given_by_position_are_read(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    tracker.begin(CausalModel(), (ids, torch.tensor([[0, 1, 1]]), torch.tensor([[-100, -100, 7]])), {})
    assert chosen(tracker, "f1") == [[1]]


def test_tokens_behind_a_filled_cache_are_not_prompt(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    tracker.begin(CausalModel(), (ids,), {"past_key_values": Cache(0)})
    assert tracker.prompt is not None
    tracker.begin(CausalModel(), (ids,), {"past_key_values": Cache(4)})
    assert tracker.prompt is None


def test_generation_without_a_cache_keeps_the_first_prompt_and_then_forgets_it(tracker):
    with tracker.hold_prompt():
        tracker.begin(CausalModel(), (torch.zeros(1, 3, dtype=torch.long),), {})
        assert chosen(tracker, "l1") == [[2]]
        tracker.begin(CausalModel(), (torch.zeros(1, 5, dtype=torch.long),), {})
        assert chosen(tracker, "l1") == [[2]]
        assert chosen(tracker, "all") == [[0, 1, 2]]
    tracker.begin(CausalModel(), (torch.zeros(1, 5, dtype=torch.long),), {})
    assert chosen(tracker, "l1") == [[4]]


def test_a_mask_that_is_not_batch_by_length_is_refused(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"\(1, 3\).*Received: \(1, 1, 3, 3\)"):
        tracker.begin(CausalModel(), (ids,), {"attention_mask": torch.ones(1, 1, 3, 3)})


def test_labels_without_a_prompt_leave_the_whole_texts_to_be_edited_and_say_so_once(tracker):
    ids = torch.arange(8).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    labels = ids.masked_fill(mask == 0, -100)  # padding hides no prompt
    with pytest.warns(UserWarning, match="hide no prompt"):
        tracker.begin(CausalModel(), (), {"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert chosen(tracker, "l1") == [[3], [3]]
    assert chosen(tracker, "all") == [[0, 1, 2, 3], [1, 2, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.begin(CausalModel(), (), {"input_ids": ids, "labels": ids})
    assert chosen(tracker, "f1") == [[0], [0]]


def test_a_texts_prompt_does_not_depend_on_the_other_texts(tracker):
    labels = torch.tensor([[-100, 5, 6], [4, 5, 6]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.begin(CausalModel(), (), {"input_ids": labels, "labels": labels})
    assert chosen(tracker, "all") == [[0], [0, 1, 2]]


def test_labels_of_models_that_are_not_causal_are_not_read():
    class TokenClassifier(torch.nn.Module):
        def forward(self, input_ids=None, attention_mask=None, labels=None):
            return None

    tracker = PromptTracker(TokenClassifier())
    ids = torch.zeros(2, 3, dtype=torch.long)
    for labels in (torch.tensor([[-100, 1, 1], [-100, -100, 1]]), torch.ones(2, 3)):  # the second: of three classes
        tracker.begin(TokenClassifier(), (ids,), {"labels": labels})
        assert chosen(tracker, "all") is None
        assert chosen(tracker, "l1") == [[2], [2]]


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32, torch.bfloat16])
def test_a_mask_of_ones_and_zeros_of_any_dtype_is_read(tracker, dtype):
    ids = torch.zeros(1, 3, dtype=torch.long)
    tracker.begin(CausalModel(), (ids,), {"attention_mask": torch.tensor([[0, 1, 1]]).to(dtype)})
    assert chosen(tracker, "f1") == [[1]]


def test_a_mask_to_be_added_to_scores_is_refused(tracker):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"1 on tokens and 0 on padding.*Received: a mask with numbers below 0"):
        tracker.begin(CausalModel(), (ids,), {"attention_mask": torch.tensor([[-1e9, 0.0, 0.0]])})


def test_a_call_without_tokens_is_refused(tracker):
    with pytest.raises(UserError, match=r"input_ids or inputs_embeds\. Received: encoder_outputs"):
        tracker.begin(CausalModel(), (), {"encoder_outputs": 1})


def test_a_block_with_other_shapes_than_the_text_is_refused(tracker):
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 1, 0]])
    tracker.begin(CausalModel(), (ids, mask), {})
    options = (Positions.parse("l1"), True, 1, torch.float32)
    assert tracker.prompt.get_mask(*options, shape=(2, 3)).shape == (2, 3, 1)
    assert tracker.prompt.get_mask(*options, shape=(1, 5)).flatten().tolist() == [0, 0, 1, 0, 1]  # without padding
    for shape in ((2, 8), (1, 8), (2, 2)):
        with pytest.raises(UserError, match=rf"\(2, 3\).*Received: \({shape[0]}, {shape[1]}\)"):
            tracker.prompt.get_mask(*options, shape=shape)


def test_a_later_forward_does_not_change_an_earlier_prompt(tracker):
    for length in (3, 5):
        tracker.begin(CausalModel(), (torch.zeros(1, length, dtype=torch.long),), {})
        if length == 3:
            earlier = tracker.prompt
    assert earlier.get_mask(Positions.parse("l1"), True, 1, torch.float32).flatten().tolist() == [0, 0, 1]
