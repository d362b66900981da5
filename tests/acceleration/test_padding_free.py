"""Blocks without padding: the same model, whose products see real tokens only."""

import pytest
import torch
from helpers.steps import LABELS, assert_close, step
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel

from fedpeft.acceleration import PrefixCache, optimise_forward_
from fedpeft.acceleration.checkpointing import set_checkpointing_
from fedpeft.acceleration.padding_free import PaddingFree, remove_padding_
from fedpeft.acceleration.padding_free_attention import LEAST_PADDING, PaddingFreeBatch, drop_padding, restore_padding
from fedpeft.adapters import AdaptedModel, LoReftConfig
from fedpeft.backbones.blocks import find_blocks, unwrap_block

PACKS = ("bert", "roberta", "llama", "qwen2", "qwen3", "mistral", "gpt2")
TOKENS = 11 + 4 + 1  # real ones of `padded`
SHARE = 2e-6  # the head is float32


@pytest.fixture
def build(lora_slot, tiny_classifier, stir):
    """build("reft", "bert", [1, 2]) -> a slot away from its start; float64 below the head."""

    def make(kind, architecture, layers="all"):
        if kind != "reft":
            return lora_slot(architecture, layers=layers, dtype=torch.float64, density=0.3 if kind == "masked" else 1.0)
        plain = tiny_classifier(architecture)
        plain.backbone.double()
        config = LoReftConfig(r=3, layers=layers, positions="f2+l3", modules_to_save=["classifier"])
        model = get_peft_model(plain, config)
        stir(model)
        return AdaptedModel(model)

    return make


def shapes(slot):
    """A list that grows by the shape of what every block's first linear map reads."""
    seen = []
    for block in find_blocks(slot.model.get_base_model())[1]:
        first = next(
            m for m in unwrap_block(block).modules() if hasattr(m, "weight") and "Norm" not in type(m).__name__
        )
        first.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[:-1])))
    return seen


def assert_packed_gives(plain, slot, batch, share=SHARE):
    """A step of a lean slot, whose blocks see no padding."""
    seen = shapes(slot)
    assert_close(step(slot, batch), plain, share)
    assert set(seen) == {(1, TOKENS)}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", PACKS)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_logits_and_gradients_are_those_with_padding(kind, architecture, side, build, padded):
    slot, batch = build(kind, architecture), padded(side)
    plain = step(slot, batch)
    optimise_forward_(slot)
    assert_packed_gives(plain, slot, batch)


def test_a_sliding_window_still_slides(build, padded):
    slot, batch = build("lora", "mistral"), padded()
    wide = step(slot, batch)
    slot.model.config.sliding_window = 3
    narrow = step(slot, batch)
    optimise_forward_(slot)
    seen = shapes(slot)
    assert_close(step(slot, batch), narrow)
    assert (narrow["logits"] - wide["logits"]).norm() > 1e-2 * wide["logits"].norm()
    assert set(seen) == {(1, TOKENS)}


@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_it_goes_with_checkpointing_and_the_prefix_cache(kind, build, padded):
    slot, batch, cache = build(kind, "llama", [1, 2]), padded("left"), PrefixCache(1)
    plain = step(slot, batch)
    optimise_forward_(slot)
    set_checkpointing_(slot.base, True)
    assert_packed_gives(plain, slot, batch)
    with slot.cached(cache):
        filling = step(slot, batch)
        seen.clear()
        again = step(slot, batch)
    assert set(seen) == {(1, TOKENS)}
    assert_close(filling, plain, SHARE)
    assert all(torch.equal(filling[name], again[name]) for name in filling)
    assert (cache.stats.rows, cache.stats.computed) == (3, 3)


def test_lean_and_other_slots_share_what_is_cached(build, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    lean = slot.clone()
    lean.optimise_forward_()
    seen = shapes(lean)
    for one in (slot, lean):
        with one.cached(cache):
            step(one, batch)
    assert cache.stats.computed == 3
    assert set(seen) == {(1, TOKENS)}


def test_generation_is_the_same(tiny, stir, padded):
    model = get_peft_model(tiny("llama"), LoReftConfig(r=3, positions="f1+l1"))
    stir(model)
    slot, batch = AdaptedModel(model), padded("left")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    expected = [slot.model.generate(**batch, use_cache=use, **options) for use in (True, False)]
    optimise_forward_(slot)
    for use, tokens in zip((True, False), expected, strict=True):
        assert torch.equal(slot.model.generate(**batch, use_cache=use, **options), tokens)


def test_what_asks_for_more_than_logits_keeps_its_padding(build, padded):
    slot, batch = build("lora", "bert"), padded()
    optimise_forward_(slot)
    seen = shapes(slot)
    states = slot.model(**batch, output_hidden_states=True)
    assert states.logits.shape == (3, 3)
    assert set(seen) == {(3, 11)}


def test_rows_that_nothing_is_left_out_of_run_as_they_are():
    real = torch.ones(4, 40, dtype=torch.bool)
    assert PaddingFreeBatch.of(real) is None
    real[0, 40 - int(LEAST_PADDING * 160) + 1 :] = False  # one token less than the least
    assert PaddingFreeBatch.of(real) is None
    real[1, 30:] = False
    assert PaddingFreeBatch.of(real) is not None
    assert PaddingFreeBatch.of(real[:1]) is None
    real[2] = False  # attention of such a row is of no tokens
    assert PaddingFreeBatch.of(real) is None


def test_packing_takes_gradients_back_to_their_tokens():
    real = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    batch = PaddingFreeBatch.of(real)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(drop_padding(x, batch), x[real].unsqueeze(0))
    assert torch.equal(restore_padding(drop_padding(x, batch), batch)[real], x[real])
    assert torch.autograd.gradcheck(lambda t: drop_padding(t, batch), x)
    packed = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: restore_padding(t, batch)[real], packed)


class _Mixing(nn.Module):
    """A block that reads what another place holds: the token before, or the first of all, whosever it is."""

    def __init__(self, inner, read):
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, hidden, *args, **kwargs):
        return self.inner(hidden + self.read(hidden), *args, **kwargs)


def packing_of(slot):
    return PaddingFree(slot.model.get_base_model())


def assert_keeps_its_padding(slot, why, padded, caplog):
    plain = step(slot, padded())
    with caplog.at_level("INFO"):
        optimise_forward_(slot)
    assert why in caplog.text
    seen = shapes(slot)
    assert_close(step(slot, padded()), plain, SHARE)
    assert set(seen) == {(3, 11)}


def test_another_attention_keeps_its_padding(build, padded, caplog):
    assert_keeps_its_padding(build("lora", "mpnet"), "attention is not sdpa but eager", padded, caplog)


def test_an_attention_chosen_later_counts(build, padded, caplog):
    template = build("lora", "bert")
    template.clone().optimise_forward_()
    template.model.get_base_model().backbone.set_attn_implementation("eager")
    assert_keeps_its_padding(template, "attention is not sdpa but eager", padded, caplog)


@pytest.mark.parametrize("read", [lambda h: h.roll(1, 1), lambda h: h[:, :1]], ids=["before", "first"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_blocks_that_mix_tokens_keep_their_padding(architecture, read, build, padded, caplog):
    slot = build("lora", architecture)
    blocks = find_blocks(slot.model.get_base_model())[1]
    blocks[1] = _Mixing(blocks[1], read)
    assert_keeps_its_padding(slot, "padding goes through the blocks", padded, caplog)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_leak_is_found_in_every_precision(dtype, lora_slot):
    slot = lora_slot("llama", dtype=dtype)
    assert packing_of(slot).find_incompatibility() is None
    blocks = find_blocks(slot.model.get_base_model())[1]
    blocks[1] = _Mixing(blocks[1], lambda h: 0.05 * h.roll(1, 1))
    assert packing_of(slot).find_incompatibility() is not None


def test_a_convolution_between_tokens_is_found_in_bfloat16():
    config = AutoConfig.for_model(
        "lfm2", vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, layer_types=["conv", "full_attention", "conv"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval().requires_grad_(False).bfloat16()
    assert "rows would mix" in PaddingFree(model).find_incompatibility()


def test_whatever_fails_keeps_its_padding_and_ends_nothing(build, tiny_classifier, padded, caplog):
    short = build("lora", "llama", [0])
    short.model.config.num_hidden_layers = 2  # the last block is there and never runs
    assert "IndexError" in packing_of(short).find_incompatibility()
    two_lists = tiny_classifier("bert")
    two_lists.more = nn.ModuleList([nn.Linear(2, 2)])
    with caplog.at_level("INFO"):
        remove_padding_(two_lists)
    assert "found 2" in caplog.text


def test_few_words_are_enough_to_find_out(tiny):
    assert PaddingFree(tiny("llama", vocab_size=5).requires_grad_(False)).find_incompatibility() is None


# ---- how it goes with what else may be switched


def test_twice_is_once_and_a_clone_is_as_lean(build, padded):
    slot, batch = build("lora", "bert"), padded()
    plain = step(slot, batch)
    optimise_forward_(slot)
    optimise_forward_(slot)
    for one in (slot, slot.clone()):
        assert_packed_gives(plain, one, batch)


def test_checkpointing_before_and_after(build, padded):
    slot, batch = build("lora", "bert"), padded()
    plain = step(slot, batch)
    set_checkpointing_(slot.base, True)
    optimise_forward_(slot)
    seen = shapes(slot)
    assert_close(step(slot, batch), plain, SHARE)
    assert len(seen) == 6  # every block twice
    seen.clear()
    set_checkpointing_(slot.base, False)
    assert_close(step(slot, batch), plain, SHARE)
    assert len(seen) == 3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_other_forwards_before_the_backward_pass(checkpointing, build, padded):
    slot = build("reft", "bert")
    one, other = padded(), {name: t[[0, 2, 1]] for name, t in padded(seed=3).items()}

    def gradients():
        loss = slot.model(**one, labels=LABELS).loss + slot.model(**other, labels=LABELS).loss
        with torch.no_grad():
            slot.model(**padded("left"))
        return dict(zip(slot.names, torch.autograd.grad(loss, slot.parameters()), strict=True))

    plain = gradients()
    optimise_forward_(slot)
    slot.set_checkpointing_(checkpointing)
    assert_close(gradients(), plain, SHARE)


def test_nothing_of_a_batch_stays_after_its_forward(build, padded):
    slot, batch = build("lora", "bert"), padded()
    inner = slot.model.get_base_model().backbone
    with torch.no_grad():
        expected = inner(**padded(seed=4)).last_hidden_state
        optimise_forward_(slot)
        slot.model(**batch)
        torch.testing.assert_close(inner(**padded(seed=4)).last_hidden_state, expected)


def test_keys_and_values_come_back_with_their_padding(tiny, stir, padded):
    model = get_peft_model(tiny("llama"), LoReftConfig(r=3))
    stir(model)
    slot, batch = AdaptedModel(model), padded()
    optimise_forward_(slot)
    seen = shapes(slot)
    cache = slot.model(**batch).past_key_values
    assert cache.layers[0].keys.shape[0] == 3
    assert set(seen) == {(3, 11)}
    seen.clear()
    slot.model(**batch, use_cache=False)
    assert set(seen) == {(1, TOKENS)}


def test_rounded_products_and_training_after_inference(lora_slot, padded):
    slot, batch = lora_slot("llama", dtype=torch.float32), padded("left")
    with torch.autocast("cpu", torch.bfloat16):
        plain = step(slot, batch)
        optimise_forward_(slot)
        seen = shapes(slot)
        with torch.inference_mode():
            slot.model(**{name: tensor.clone() for name, tensor in batch.items()})
        assert_close(step(slot, batch), plain, 0.05)
    assert set(seen) == {(1, TOKENS)}
