"""Wrapped forwards, recognised calls and attention functions."""

import pytest

from fedpeft.acceleration import forward_wrapper
from fedpeft.acceleration.forward_wrapper import (
    ForwardWrapper,
    get_original_attention,
    is_supported_call,
    register_substitute_attention,
    unwrap_forward,
)


def test_a_forward_is_unwrapped_whatever_is_around_it():
    def forward():
        pass

    assert unwrap_forward(forward) is forward
    assert ForwardWrapper(forward).wrapped is forward
    assert unwrap_forward(ForwardWrapper(ForwardWrapper(forward))) is forward


@pytest.mark.parametrize(
    "names",
    [
        ["input_ids"],
        ["input_ids", "attention_mask"],
        ["input_ids", "attention_mask", "token_type_ids", "position_ids", "labels", "logits_to_keep", "return_dict"],
    ],
)
def test_calls_for_logits_are_supported(names):
    assert is_supported_call(dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["attention_mask"],
        ["inputs_embeds", "attention_mask"],
        ["input_ids", "inputs_embeds"],
        ["input_ids", "past_key_values"],
        ["input_ids", "use_cache"],
        ["input_ids", "output_hidden_states"],
        ["input_ids", "an_argument_of_tomorrow"],
    ],
)
def test_calls_for_anything_else_are_not(names):
    assert not is_supported_call(dict.fromkeys(names, 1))


def test_an_attention_function_is_its_own_original_unless_it_is_a_substitute(monkeypatch):
    monkeypatch.setattr(forward_wrapper, "_original_attention", {})
    assert get_original_attention("quick_sdpa") == "quick_sdpa"
    register_substitute_attention("quick_sdpa", "sdpa")
    assert get_original_attention("quick_sdpa") == "sdpa"
    assert get_original_attention("sdpa") == "sdpa"
    assert get_original_attention("eager") == "eager"
