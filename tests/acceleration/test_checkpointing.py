"""Activation checkpointing of a slot in eval mode: the same bits, fewer activations kept."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.acceleration.checkpointing import set_checkpointing_
from fedpeft.adapters import AdaptedModel, LoReftConfig

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")
LABELS = torch.tensor([0, 1, 2])


@pytest.fixture
def build(lora_slot, factors, tiny_classifier, stir):
    def make(kind, architecture):
        if kind == "reft":
            model = get_peft_model(tiny_classifier(architecture), LoReftConfig(r=3, modules_to_save=["classifier"]))
            stir(model)
            return AdaptedModel(model)
        slot = lora_slot(architecture, density=0.3 if kind == "masked" else 1.0)
        slot.set_frozen_delta(factors(slot, 3) if kind == "masked" else {})
        return slot

    return make


def step(slot, batch):
    """Loss and gradients, and how many numbers were kept outside of recomputed blocks for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = slot.model(**batch, labels=LABELS).loss
    loss.backward()
    gradients = [p.grad.clone() for p in slot.parameters()]
    for parameter in slot.parameters():
        parameter.grad = None
    return loss.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_gradients_are_bit_equal_and_less_is_kept(kind, architecture, build, padded):
    slot, batch = build(kind, architecture), padded()
    loss, gradients, kept = step(slot, batch)
    set_checkpointing_(slot.base, True)
    same_loss, same_gradients, less = step(slot, batch)
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert less < 0.5 * kept
    set_checkpointing_(slot.base, False)
    assert step(slot, batch)[2] == kept


def test_blocks_run_twice_when_on_and_dropout_stays_off(build, padded):
    slot, batch = build("lora", "bert"), padded()
    layer = slot.model.base_model.model.backbone.encoder.layer[1]
    runs = []
    layer.output.dense.register_forward_hook(lambda *_: runs.append(layer.training))
    for on, times in ((False, 1), (True, 2), (True, 2), (False, 1)):  # twice on is on
        slot.set_checkpointing_(on)
        runs.clear()
        step(slot, batch)
        assert runs == [False] * times
        assert not any(module.training for module in slot.model.modules())
    set_checkpointing_(slot.base, True)
    runs.clear()
    with torch.no_grad():
        slot.model(**batch)
    assert runs == [False]


def test_a_clone_recomputes_its_own_blocks(build, padded):
    slot, batch = build("masked", "bert"), padded()
    set_checkpointing_(slot.base, True)
    twin = slot.clone()
    _, expected, _ = step(slot, batch)
    slot.write({name: torch.zeros_like(tensor) for name, tensor in slot.read().items()})
    slot.set_frozen_delta({})
    _, gradients, kept = step(twin, batch)
    assert all(torch.equal(a, b) for a, b in zip(expected, gradients, strict=True))
    set_checkpointing_(twin.base, False)
    assert step(twin, batch)[2] > 2 * kept and step(slot, batch)[2] == kept


def test_the_edit_of_loreft_runs_once(build, padded):
    slot, batch = build("reft", "llama"), padded("left")
    set_checkpointing_(slot.base, True)
    block = slot.model.base_model.model.backbone.layers[0]
    edits, edit = [], block.edit
    block.edit = lambda hidden: edits.append(1) or edit(hidden)
    step(slot, batch)
    assert edits == [1]


def test_decoding_under_gradients_is_refused(build, padded):
    slot, batch = build("lora", "llama"), padded("left")
    backbone = slot.model.base_model.model.backbone
    with torch.no_grad():
        cache = backbone(**batch).past_key_values
    assert cache.get_seq_length() == 11
    set_checkpointing_(slot.base, True)
    with pytest.raises(ValueError, match="Received: a cache of 11 tokens"):
        backbone(input_ids=batch["input_ids"][:, -1:], past_key_values=cache)
