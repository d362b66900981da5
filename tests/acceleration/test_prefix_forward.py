"""Which forwards return stored states, and which sequences are others."""

import pytest
import torch
from helpers.accelerated import get_blocks, have_equal_bits, record_attention
from helpers.caching import cached_step, enable_cache, list_token_ids
from helpers.steps import assert_close, step
from peft import get_peft_model

from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.acceleration.prefix_states import make_fixed_batches
from fedpeft.adapters import AdaptedModel, LoReftConfig

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")
TOLERANCE = 2e-6  # the head is float32


# ---- which inputs are other sequences


@pytest.mark.parametrize("name", ["token_type_ids", "position_ids"])
def test_other_inputs_are_part_of_the_sequence(name, build, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    ids = batch["input_ids"]
    values = torch.arange(ids.shape[1]).expand_as(ids) + 3 if name == "position_ids" else torch.ones_like(ids)
    without, expected = step(model, batch), step(model, batch | {name: values})
    cached_step(model, cache, batch)
    assert_close(cached_step(model, cache, batch | {name: values}), expected, TOLERANCE)
    assert (expected["logits"] - without["logits"]).norm() > 1e-2 * without["logits"].norm()
    assert cache.stats.sequences == 6


def test_a_sequence_in_another_batch_or_with_other_positions_is_another(build, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    sequences, ids = list_token_ids(batch), batch["input_ids"]
    shifted = {"position_ids": torch.arange(ids.shape[1]).expand_as(ids) + 3}
    for batches, more in (
        (make_fixed_batches(sequences, 16), {}),
        (make_fixed_batches(sequences[:2], 16), {}),
        (make_fixed_batches(sequences, 16), shifted),
    ):
        before = cache.stats.sequences
        results = cached_step(model, cache, batch | more, batches=batches)
        assert_close(results, step(model, batch | more), TOLERANCE)
        assert cache.stats.sequences == before + 3


def test_positions_that_count_from_0_leave_a_sequence_in_its_batch(build, padded):
    model, batch, cache = build("lora", "llama", [2]), padded(), PrefixCache(1)
    batches = make_fixed_batches(list_token_ids(batch), 16)
    counted = batch | {"position_ids": torch.arange(11).expand(3, 11)}
    runs = record_attention(model)
    cached_step(model, cache, counted, batches=batches)
    assert runs == [0, 1, 2]  # all sequences at once, then the batch
    assert cache.stats.computed == 3


def test_states_under_autocast_are_others(build, padded):
    model, batch, cache = build("lora", "llama", [2], dtype=torch.float32), padded(), PrefixCache(1)
    cached_step(model, cache, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(cached_step(model, cache, batch), step(model, batch), 0.05)
    assert cache.stats.sequences == 6


# ---- fixed batches


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fixed_batch_is_computed_at_once(architecture, side, build, padded):
    model, batch, cache = build("reft", architecture, [1, 2]), padded(side), PrefixCache(1)
    expected = step(model, batch)
    runs = record_attention(model)
    batches = make_fixed_batches([*list_token_ids(batch), (5, 6, 7), (8, 9)], 3)
    first = cached_step(model, cache, batch, batches=batches)
    assert_close(first, expected, TOLERANCE)
    assert runs == [0, 1] * 2 + [2]  # sequences of 1, 2 and 3 tokens; of 4 and 11 tokens; the batch
    assert have_equal_bits(cached_step(model, cache, batch, batches=batches), first)
    assert (cache.stats.sequences, cache.stats.computed, cache.stats.looked_up) == (5, 5, 6)


# ---- calls that run as without a cache


def test_other_calls_run_as_without_a_cache(build, padded):
    model, batch, cache = build("lora", "llama", [2]), padded("left"), PrefixCache(1)
    cached_step(model, cache, batch)
    gap = batch | {"attention_mask": batch["attention_mask"].clone().index_fill_(1, torch.tensor([9]), 0)}
    with torch.no_grad():
        for inputs in (batch | {"output_hidden_states": True}, batch | {"use_cache": True}, gap):
            expected = model.model(**inputs).logits
            with enable_cache(cache, model):
                assert torch.equal(model.model(**inputs).logits, expected)
    assert cache.stats.looked_up == 3


@pytest.mark.parametrize("part", ["", "backbone.embeddings", "backbone.encoder.layer.0"])
def test_in_training_mode_no_draw_of_dropout_is_stored(part, build, padded):
    """One would be every epoch's, and evaluation's too."""
    model, batch, cache = build("lora", "bert", [2], dtype=torch.float32), padded(), PrefixCache(1)
    assert model.base.config.hidden_dropout_prob > 0
    with torch.no_grad():
        expected = model.model(**batch).logits
        with enable_cache(cache, model):
            model.base.get_submodule(part).train()
            logits = [model.model(**batch).logits for _ in range(2)]
            assert not torch.equal(*logits)  # dropout is drawn anew
            assert cache.stats.computed == 0
            model.model.eval()
            assert_close({"logits": model.model(**batch).logits}, {"logits": expected}, 1e-4)
    assert cache.stats.computed == 3


def test_a_row_of_padding_only_runs_as_without_a_cache(build, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    batch["attention_mask"][2] = 0
    expected = step(model, batch)
    assert have_equal_bits(cached_step(model, cache, batch), expected)
    assert cache.stats.looked_up == 0


def test_generation_with_a_key_value_cache_does_not_use_it(tiny, padded, stir):
    wrapped = get_peft_model(tiny("llama"), LoReftConfig(r=3, layers=[1]))
    stir(wrapped)
    model, batch, cache = AdaptedModel(wrapped), padded("left"), PrefixCache(1)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1}
    expected = model.model.generate(**batch, **options)
    with enable_cache(cache, model):
        model.model(**batch)
        assert torch.equal(model.model.generate(**batch, **options), expected)
    assert cache.stats.looked_up == 3


def test_an_error_leaves_the_model_as_it_was(build, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    plain, unknown = step(model, batch), torch.full((1, 4), 1000)
    forwards = [block.forward for block in get_blocks(model)]
    with enable_cache(cache, model):
        cached = step(model, batch)
        with pytest.raises(IndexError):
            model.model(input_ids=unknown)
        assert have_equal_bits(step(model, batch), cached)
    with pytest.raises(IndexError), enable_cache(cache, model):
        model.model(input_ids=unknown)
    assert [block.forward for block in get_blocks(model)] == forwards
    assert have_equal_bits(step(model, batch), plain)
