"""Blocks without padding: the same model, whose products see real tokens only."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fedpeft.adapters import LoReftConfig, PrefixCache, Slot
from fedpeft.adapters.blocks import find_blocks, unwrapped
from fedpeft.adapters.packed import LEAST, PackedBatch, Packing, pack, unpack

PACKS = ("bert", "roberta", "llama", "qwen2", "qwen3", "mistral", "gpt2")
LABELS = torch.tensor([0, 1, 2])
TOKENS = 11 + 4 + 1  # real ones of `padded`


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
        return Slot(model)

    return make


def step(slot, batch):
    """Logits and gradients by name."""
    output = slot.model(**batch, labels=LABELS)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in zip(slot.names, slot.parameters(), strict=True)}
    for parameter in slot.parameters():
        parameter.grad = None
    return {"logits": output.logits.detach()} | gradients


def assert_close(one, other, share=2e-6):  # the head is float32
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= share * other[name].norm() + 1e-12, name


def shapes(slot):
    """A list that grows by the shape of what every block's first linear map reads."""
    seen = []
    for block in find_blocks(slot.model.get_base_model())[1]:
        first = next(m for m in unwrapped(block).modules() if hasattr(m, "weight") and "Norm" not in type(m).__name__)
        first.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[:-1])))
    return seen


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", PACKS)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_logits_and_gradients_are_those_with_padding(kind, architecture, side, build, padded):
    slot, batch = build(kind, architecture), padded(side)
    plain = step(slot, batch)
    slot.lean_()
    seen = shapes(slot)
    assert_close(step(slot, batch), plain)
    assert set(seen) == {(1, TOKENS)}


def test_a_sliding_window_still_slides(build, padded):
    slot, batch = build("lora", "mistral"), padded()
    wide = step(slot, batch)
    slot.model.config.sliding_window = 3
    narrow = step(slot, batch)
    slot.lean_()
    seen = shapes(slot)
    assert_close(step(slot, batch), narrow)
    assert (narrow["logits"] - wide["logits"]).norm() > 1e-2 * wide["logits"].norm()
    assert set(seen) == {(1, TOKENS)}


@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_it_goes_with_checkpointing_and_the_prefix_cache(kind, build, padded):
    slot, batch, cache = build(kind, "llama", [1, 2]), padded("left"), PrefixCache(1)
    plain = step(slot, batch)
    slot.lean_()
    slot.checkpointing_(True)
    assert_close(step(slot, batch), plain)
    with slot.cached(cache):
        filling, again = step(slot, batch), step(slot, batch)
    assert_close(filling, plain)
    assert all(torch.equal(filling[name], again[name]) for name in filling)
    assert (cache.use.rows, cache.use.computed) == (3, 3)


def test_lean_and_other_slots_share_what_is_cached(build, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    lean = slot.clone()
    lean.lean_()
    for one in (slot, lean):
        with one.cached(cache):
            step(one, batch)
    assert cache.use.computed == 3


def test_generation_is_the_same(tiny, stir, padded):
    model = get_peft_model(tiny("llama"), LoReftConfig(r=3, positions="f1+l1"))
    stir(model)
    slot, batch = Slot(model), padded("left")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    expected = [slot.model.generate(**batch, use_cache=use, **options) for use in (True, False)]
    slot.lean_()
    for use, tokens in zip((True, False), expected, strict=True):
        assert torch.equal(slot.model.generate(**batch, use_cache=use, **options), tokens)


def test_what_asks_for_more_than_logits_keeps_its_padding(build, padded):
    slot, batch = build("lora", "bert"), padded()
    slot.lean_()
    seen = shapes(slot)
    states = slot.model(**batch, output_hidden_states=True)
    assert states.logits.shape == (3, 3)
    assert set(seen) == {(3, 11)}


def test_rows_that_nothing_is_left_out_of_run_as_they_are():
    real = torch.ones(4, 40, dtype=torch.bool)
    assert PackedBatch.of(real) is None
    real[0, 40 - int(LEAST * 160) + 1 :] = False  # one token less than the least
    assert PackedBatch.of(real) is None
    real[1, 30:] = False
    assert PackedBatch.of(real) is not None
    assert PackedBatch.of(real[:1]) is None
    real[2] = False  # attention of such a row is of no tokens
    assert PackedBatch.of(real) is None


def test_packing_takes_gradients_back_to_their_tokens():
    real = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    batch = PackedBatch.of(real)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(pack(x, batch), x[real].unsqueeze(0))
    assert torch.equal(unpack(pack(x, batch), batch)[real], x[real])
    assert torch.autograd.gradcheck(lambda t: pack(t, batch), x)
    packed = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: unpack(t, batch)[real], packed)


class _Mixing(nn.Module):
    """A block that reads the token before, whosever it is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden, *args, **kwargs):
        return self.inner(hidden + hidden.roll(1, 1), *args, **kwargs)


@pytest.mark.parametrize("architecture, why", [("mpnet", "attention is not sdpa"), ("bert", "would differ by")])
def test_a_model_that_cannot_do_without_padding_keeps_it(architecture, why, build, padded, caplog):
    slot, batch = build("lora", architecture), padded()
    blocks = find_blocks(slot.model.get_base_model())[1]
    if architecture == "bert":
        blocks[1] = _Mixing(blocks[1])
    assert why in Packing(slot.model.get_base_model()).what_prevents()
    plain = step(slot, batch)
    with caplog.at_level("INFO"):
        slot.lean_()
    assert why in caplog.text
    seen = shapes(slot)
    assert_close(step(slot, batch), plain)
    assert set(seen) == {(3, 11)}
