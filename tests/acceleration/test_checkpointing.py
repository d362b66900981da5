"""Activation checkpointing in eval mode: the same bits, fewer activations kept."""

import pytest
import torch
from helpers.accelerated import FakeClient, get_blocks, have_equal_bits
from helpers.steps import LABELS, step

from fedpeft.acceleration.checkpointing import CheckpointedForward, Checkpointing, set_checkpointing_

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")


def step_and_count(model, batch):
    """The results of a step, and how many numbers were kept outside of checkpointed blocks for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.model(**batch, labels=LABELS).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in zip(model.names, model.parameters(), strict=True)}
    for parameter in model.parameters():
        parameter.grad = None
    return {"loss": loss.detach()} | gradients, sum(kept.values())


def is_on(model):
    return [isinstance(block.forward, CheckpointedForward) for block in get_blocks(model)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_gradients_are_bit_equal_and_less_is_kept(kind, architecture, build, padded):
    model, batch = build(kind, architecture, dtype=torch.float32), padded()
    expected, kept = step_and_count(model, batch)
    set_checkpointing_(model.base, True)
    results, kept_with_checkpoints = step_and_count(model, batch)
    assert have_equal_bits(results, expected)
    assert kept_with_checkpoints < 0.5 * kept
    set_checkpointing_(model.base, False)
    assert step_and_count(model, batch)[1] == kept


def test_blocks_run_twice_when_on_and_dropout_stays_off(build, padded):
    model, batch = build("lora", "bert"), padded()
    block = get_blocks(model)[1]
    runs = []
    block.output.dense.register_forward_hook(lambda *_: runs.append(block.training))
    for enabled, times in ((False, 1), (True, 2), (True, 2), (False, 1)):  # switched on twice is on
        set_checkpointing_(model.base, enabled)
        runs.clear()
        step(model, batch)
        assert runs == [False] * times
        assert not any(module.training for module in model.model.modules())
    set_checkpointing_(model.base, True)
    runs.clear()
    with torch.no_grad():
        model.model(**batch)
    assert runs == [False]


def test_it_is_on_only_while_a_client_that_was_given_it_runs(build):
    model = build("lora", "bert")
    with Checkpointing().apply(model, FakeClient(uses_checkpointing=False)):
        assert is_on(model) == [False] * 3
    with Checkpointing().apply(model, FakeClient(uses_checkpointing=True)):
        assert is_on(model) == [True] * 3
    assert is_on(model) == [False] * 3
    with pytest.raises(RuntimeError), Checkpointing().apply(model, FakeClient(uses_checkpointing=True)):
        raise RuntimeError("of the client")
    assert is_on(model) == [False] * 3


def test_a_clone_recomputes_its_own_blocks(build, padded):
    model, batch = build("masked", "bert"), padded()
    set_checkpointing_(model.base, True)
    clone = model.clone()
    expected, _ = step_and_count(model, batch)
    model.write({name: torch.zeros_like(tensor) for name, tensor in model.read().items()})
    model.set_frozen_delta({})
    results, kept = step_and_count(clone, batch)
    assert have_equal_bits(results, expected)
    set_checkpointing_(clone.base, False)
    assert step_and_count(clone, batch)[1] > 2 * kept and step_and_count(model, batch)[1] == kept


def test_the_edit_of_loreft_runs_once(build, padded):
    model, batch = build("reft", "llama"), padded("left")
    set_checkpointing_(model.base, True)
    block = model.base.backbone.layers[0]
    edits, edit = [], block.edit
    block.edit = lambda *args: edits.append(1) or edit(*args)
    step(model, batch)
    assert edits == [1]


def test_without_gradients_keys_and_values_are_returned(build, padded):
    model, batch = build("lora", "llama"), padded("left")
    set_checkpointing_(model.base, True)
    with torch.no_grad():
        assert model.base.backbone(**batch).past_key_values.get_seq_length() == 11


def test_decoding_under_gradients_is_refused(build, padded):
    model, batch = build("lora", "llama"), padded("left")
    backbone = model.base.backbone
    with torch.no_grad():
        cache = backbone(**batch).past_key_values
    assert cache.get_seq_length() == 11
    set_checkpointing_(model.base, True)
    with pytest.raises(ValueError, match="Received: a cache of 11 tokens"):
        backbone(input_ids=batch["input_ids"][:, -1:], past_key_values=cache)
