"""Generation edits the prompt and nothing else, with or without a cache, on either padding side."""

import copy

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import LoReftConfig
from fedpeft.errors import UserError

DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
STEPS = 5


def generate(model, batch, use_cache):
    out = model.generate(
        **batch,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        use_cache=use_cache,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return out.sequences[:, -STEPS:], torch.stack(out.scores, 1)  # (rows, steps), (rows, steps, vocabulary)


@pytest.fixture
def wrapped(tiny, stir):
    def build(architecture, positions="f2+l3", task=None):
        model = get_peft_model(tiny(architecture), LoReftConfig(r=3, positions=positions, task_type=task))
        stir(model)
        return model

    return build


@pytest.mark.parametrize("positions", ["f2+l3", "all"])
@pytest.mark.parametrize("architecture", DECODERS)
def test_with_and_without_cache_and_by_hand(architecture, positions, wrapped, padded):
    model, batch = wrapped(architecture, positions), padded("left")
    cached, cached_scores = generate(model, batch, use_cache=True)
    plain, plain_scores = generate(model, batch, use_cache=False)
    assert torch.equal(cached, plain)
    finite = cached_scores.isfinite()  # min_new_tokens forbids the end token
    torch.testing.assert_close(cached_scores[finite], plain_scores[finite], rtol=1e-3, atol=1e-3)

    # By hand, one row at a time and unpadded: whole forwards whose labels end the prompt.
    for row, size in enumerate((11, 4, 1)):
        prompt = batch["input_ids"][row, -size:]
        text = torch.cat((prompt, cached[row])).unsqueeze(0)
        labels = text.clone()
        labels[:, :size] = -100
        with torch.no_grad():
            logits = model(input_ids=text, labels=labels).logits[0, size - 1 : -1]
        kept = finite[row]
        torch.testing.assert_close(cached_scores[row][kept], logits[kept], rtol=1e-3, atol=1e-3)


def test_the_growing_text_would_move_the_last_positions(wrapped, padded):
    model, batch = wrapped("llama"), padded("left")
    _, fixed = generate(model, batch, use_cache=False)
    inner = model.base_model.model  # its own generate does not know where the prompt ended
    _, moving = generate(inner, batch, use_cache=False)
    assert (fixed - moving)[:, 1:].abs().nan_to_num().max() > 0.1


def test_generation_of_the_task_class_of_peft(wrapped, padded):
    batch = padded("left")
    plain = generate(wrapped("llama"), batch, use_cache=True)[0]
    assert torch.equal(generate(wrapped("llama", task="CAUSAL_LM"), batch, use_cache=True)[0], plain)


def test_an_error_during_generation_leaves_nothing_behind(wrapped, padded):
    model, batch = wrapped("llama"), padded("left")
    with torch.no_grad():
        expected = model(**batch).logits
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(**batch, max_new_tokens=0)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_both_padding_sides_give_the_same_logits(architecture, positions, wrapped, padded):
    model = wrapped(architecture, positions)
    logits = []
    for side in ("left", "right"):
        batch = padded(side)
        places = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            out = model(**batch, position_ids=places).logits
        logits.append(out[batch["attention_mask"].bool()])  # (real tokens, vocabulary), rows in order
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_beams_start_from_the_same_prompt(wrapped, padded):
    model, batch = wrapped("llama"), padded("left")
    options = {"max_new_tokens": STEPS, "num_beams": 3, "do_sample": False}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, copy.deepcopy(model).generate(**batch, **options, use_cache=False))


@pytest.mark.parametrize("options", [{"prefill_chunk_size": 4}, {"cache_implementation": "static"}])
def test_what_would_hide_part_of_the_prompt_is_refused(options, wrapped, padded):
    with pytest.raises(UserError, match="Received"):
        wrapped("llama").generate(**padded("left"), max_new_tokens=2, **options)


def test_candidate_tokens_behind_the_prompt_are_refused(wrapped):
    ids = torch.tensor([[9, 8, 3, 4, 5, 6, 7, 3, 4]])  # "3 4" was seen before, so "5 6" are guessed to follow
    with pytest.raises(UserError, match=r"whole prompt of 9 tokens.*Received: 11"):
        wrapped("llama").generate(input_ids=ids, max_new_tokens=4, prompt_lookup_num_tokens=2)


def test_an_adapter_that_was_there_before_another_still_keeps_its_prompt(wrapped, padded):
    model, batch = wrapped("llama"), padded("left")
    expected, _ = generate(model, batch, use_cache=True)
    model.add_adapter("second", LoReftConfig(r=2))
    without_cache, _ = generate(model, batch, use_cache=False)
    assert torch.equal(without_cache, expected)
    assert not model.unload()._forward_pre_hooks
