"""Blocks without padding: the same results from products that see real tokens only."""

import pytest
import torch
from helpers.accelerated import get_blocks, have_equal_bits, record_shapes
from helpers.steps import LABELS, assert_close, step
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel

from fedpeft.acceleration.padding_free import PaddingFree, PaddingFreeBlocks, remove_padding_
from fedpeft.adapters import AdaptedModel, LoReftConfig
from fedpeft.backbones.blocks import find_blocks

COMPATIBLE = ("bert", "roberta", "llama", "qwen2", "qwen3", "mistral", "gpt2")
TOKENS = 11 + 4 + 1  # real ones of `padded`
WITHOUT_PADDING, WITH_PADDING = (1, TOKENS), (3, 11)
TOLERANCE = 2e-6  # the head is float32


def assert_no_padding(model, batch, expected, tolerance=TOLERANCE):
    """The model's blocks see no padding, and a step of it is as expected."""
    shapes = record_shapes(model)
    assert_close(step(model, batch), expected, tolerance)
    assert set(shapes) == {WITHOUT_PADDING}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", COMPATIBLE)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_logits_and_gradients_are_those_with_padding(kind, architecture, side, build, padded):
    model, batch = build(kind, architecture), padded(side)
    expected = step(model, batch)
    remove_padding_(model.base)
    assert_no_padding(model, batch, expected)


def test_a_sliding_window_still_slides(build, padded):
    model, batch = build("lora", "mistral"), padded()
    wide = step(model, batch)
    model.model.config.sliding_window = 3
    narrow = step(model, batch)
    remove_padding_(model.base)
    assert_no_padding(model, batch, narrow)
    assert (narrow["logits"] - wide["logits"]).norm() > 1e-2 * wide["logits"].norm()


def test_installed_twice_is_once_and_clones_have_it(build, padded, caplog):
    model, batch = build("lora", "bert"), padded()
    expected = step(model, batch)
    with caplog.at_level("INFO"):
        for _ in range(2):
            PaddingFree().install_(model)
    assert not caplog.records  # which would say that the blocks keep their padding
    for tested in (model, model.clone()):
        assert_no_padding(tested, batch, expected)
    block = get_blocks(model)[0]
    assert type(block.forward.wrapped) is not type(block.forward)


def test_removal_leaves_the_model_as_it_was(build, padded):
    model, batch = build("lora", "bert"), padded()
    expected = step(model, batch)
    blocks = PaddingFreeBlocks(model.base)
    assert not blocks.is_installed
    blocks.install()
    assert blocks.is_installed and PaddingFreeBlocks(model.base).is_installed
    blocks.remove()
    assert not blocks.is_installed
    shapes = record_shapes(model)
    assert have_equal_bits(step(model, batch), expected)
    assert set(shapes) == {WITH_PADDING}
    assert model.base.backbone.config._attn_implementation == "sdpa"


# ---- calls that keep their padding


def test_generation_is_the_same(tiny, stir, padded):
    wrapped = get_peft_model(tiny("llama"), LoReftConfig(r=3, positions="f1+l1"))
    stir(wrapped)
    model, batch = AdaptedModel(wrapped), padded("left")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    expected = [model.model.generate(**batch, use_cache=use_cache, **options) for use_cache in (True, False)]
    remove_padding_(model.base)
    for use_cache, ids in zip((True, False), expected, strict=True):
        assert torch.equal(model.model.generate(**batch, use_cache=use_cache, **options), ids)


def test_a_call_for_hidden_states_keeps_its_padding(build, padded):
    model, batch = build("lora", "bert"), padded()
    remove_padding_(model.base)
    shapes = record_shapes(model)
    assert model.model(**batch, output_hidden_states=True).logits.shape == (3, 3)
    assert set(shapes) == {WITH_PADDING}


def test_a_configuration_for_hidden_states_keeps_the_padding(build, padded):
    model, batch = build("lora", "bert"), padded()
    remove_padding_(model.base)
    model.base.config.output_hidden_states = True
    shapes = record_shapes(model)
    model.model(**batch)
    assert set(shapes) == {WITH_PADDING}


def test_a_mask_of_another_shape_keeps_its_padding(build, padded):
    model, batch = build("lora", "bert"), padded()
    remove_padding_(model.base)
    mask = batch["attention_mask"][:, None, None, :].expand(3, 1, 11, 11).bool()  # one that is ready for attention
    shapes = record_shapes(model)
    model.base.backbone(input_ids=batch["input_ids"], attention_mask=mask)
    assert set(shapes) == {WITH_PADDING}


def test_keys_and_values_are_returned_with_their_padding(tiny, stir, padded):
    wrapped = get_peft_model(tiny("llama"), LoReftConfig(r=3))
    stir(wrapped)
    model, batch = AdaptedModel(wrapped), padded()
    remove_padding_(model.base)
    shapes = record_shapes(model)
    assert model.model(**batch).past_key_values.layers[0].keys.shape[0] == 3
    assert set(shapes) == {WITH_PADDING}
    shapes.clear()
    model.model(**batch, use_cache=False)
    assert set(shapes) == {WITHOUT_PADDING}


def test_a_batch_ends_with_its_forward(build, padded):
    model, batch = build("lora", "bert"), padded()
    backbone = model.base.backbone
    with torch.no_grad():
        expected = backbone(**padded(seed=4)).last_hidden_state
        remove_padding_(model.base)
        model.model(**batch)
        torch.testing.assert_close(backbone(**padded(seed=4)).last_hidden_state, expected)
        with pytest.raises(IndexError):
            model.model(input_ids=batch["input_ids"] + 1000, attention_mask=batch["attention_mask"])
        torch.testing.assert_close(backbone(**padded(seed=4)).last_hidden_state, expected)


# ---- other forwards, other precisions


def test_another_forward_before_the_backward_pass(build, padded):
    model = build("reft", "bert")
    first, second = padded(), {name: tensor[[0, 2, 1]] for name, tensor in padded(seed=3).items()}

    def gradients():
        loss = model.model(**first, labels=LABELS).loss + model.model(**second, labels=LABELS).loss
        with torch.no_grad():
            model.model(**padded("left"))
        return dict(zip(model.names, torch.autograd.grad(loss, model.parameters()), strict=True))

    expected = gradients()
    remove_padding_(model.base)
    assert_close(gradients(), expected, TOLERANCE)


def test_autocast_and_training_after_inference(build, padded):
    model, batch = build("lora", "llama", dtype=torch.float32), padded("left")
    with torch.autocast("cpu", torch.bfloat16):
        expected = step(model, batch)
        remove_padding_(model.base)
        with torch.inference_mode():
            model.model(**{name: tensor.clone() for name, tensor in batch.items()})
        assert_no_padding(model, batch, expected, 0.05)


# ---- architectures that cannot do without padding


class _Mixing(nn.Module):
    """A block that reads other positions: the token before, or the first of all, of whatever sequence it is."""

    def __init__(self, inner, read):
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, hidden, *args, **kwargs):
        return self.inner(hidden + self.read(hidden), *args, **kwargs)


def assert_keeps_its_padding(model, reason, padded, caplog):
    expected = step(model, padded())
    with caplog.at_level("INFO"):
        remove_padding_(model.base)
    assert f"blocks keep their padding: {reason}" in caplog.text
    shapes = record_shapes(model)
    assert have_equal_bits(step(model, padded()), expected)
    assert set(shapes) == {WITH_PADDING}


def test_another_attention_keeps_its_padding(build, padded, caplog):
    assert_keeps_its_padding(build("lora", "mpnet"), "its attention is not sdpa but eager", padded, caplog)


def test_an_attention_chosen_after_the_test_counts(build, padded, caplog):
    model = build("lora", "bert")
    remove_padding_(model.clone().base)  # found compatible
    model.base.backbone.set_attn_implementation("eager")
    assert_keeps_its_padding(model, "its attention is not sdpa but eager", padded, caplog)


@pytest.mark.parametrize("read", [lambda h: h.roll(1, 1), lambda h: h[:, :1]], ids=["before", "first"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_blocks_that_mix_tokens_keep_their_padding(architecture, read, build, padded, caplog):
    model = build("lora", architecture)
    blocks = find_blocks(model.base)[1]
    blocks[1] = _Mixing(blocks[1], read)
    assert_keeps_its_padding(model, "", padded, caplog)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_leak_is_found_in_every_precision(dtype, build):
    model = build("lora", "llama", dtype=dtype)
    assert PaddingFreeBlocks(model.base).find_incompatibility() is None
    blocks = find_blocks(model.base)[1]
    blocks[1] = _Mixing(blocks[1], lambda h: 0.05 * h.roll(1, 1))
    assert PaddingFreeBlocks(model.base).find_incompatibility() is not None


def test_a_block_that_changes_with_the_shape_is_found(build):
    model = build("lora", "bert")
    blocks = find_blocks(model.base)[1]
    blocks[1] = _Mixing(blocks[1], lambda h: h * (h.shape[0] == 1))  # mixes nothing and is not the same
    assert "its states would differ by" in PaddingFreeBlocks(model.base).find_incompatibility()


def test_a_convolution_over_tokens_is_found_in_bfloat16():
    config = AutoConfig.for_model(
        "lfm2", vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, layer_types=["conv", "full_attention", "conv"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval().requires_grad_(False).bfloat16()
    assert PaddingFreeBlocks(model).find_incompatibility() == "sequences would mix"


def test_an_error_keeps_the_padding_and_ends_nothing(build, tiny_classifier, padded, caplog):
    short = build("lora", "llama", [0])
    short.model.config.num_hidden_layers = 2  # the last block exists and never runs
    assert "IndexError" in PaddingFreeBlocks(short.base).find_incompatibility()
    two_lists = tiny_classifier("bert")
    two_lists.more = nn.ModuleList([nn.Linear(2, 2)])
    with caplog.at_level("INFO"):
        remove_padding_(two_lists)
    assert "blocks keep their padding" in caplog.text and "found 2" in caplog.text


def test_a_lack_of_memory_says_nothing_of_the_architecture(build, monkeypatch):
    model = build("lora", "bert")
    blocks = PaddingFreeBlocks(model.base)

    def fail(ids):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(blocks, "_probe", fail)
    with pytest.raises(torch.OutOfMemoryError):
        blocks.find_incompatibility()


def test_a_small_vocabulary_can_be_tested(tiny):
    model = tiny("llama", vocab_size=5).requires_grad_(False)
    assert PaddingFreeBlocks(model).find_incompatibility() is None


def test_clones_share_one_test(build, monkeypatch):
    tested, find = [], PaddingFreeBlocks.find_incompatibility
    monkeypatch.setattr(PaddingFreeBlocks, "find_incompatibility", lambda blocks: tested.append(blocks) or find(blocks))
    model = build("lora", "bert")
    clones = [model.clone(), model.clone()]
    for clone in clones:
        remove_padding_(clone.base)
    assert len(tested) == 1
    assert all(PaddingFreeBlocks(clone.base).is_installed for clone in clones)
