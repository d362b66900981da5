"""What is merged beside the trainable pair, against float64 models whose weights really were changed."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig, find_lora_pairs, get_frozen_delta_names, is_head
from fedpeft.adapters.lora.frozen_delta import FrozenDelta, get_frozen_delta

BOTH = pytest.mark.parametrize("architecture", ["bert", "gpt2"])  # bert: 32 -> 48 -> 32; gpt2: Conv1D, 32 -> 96, 128
LABELS = torch.tensor([0, 1, 2])


def logits(slot, batch):
    with torch.no_grad():
        return slot.model(**batch).logits


def plain_logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def products(slot, factors):
    """Everything the slot adds to its weights, (d_out, d_in) float64 by module, from the definition."""
    tensors, deltas = slot.read(), {}
    for module, a, b in find_lora_pairs(slot.names):
        deltas[module] = 1.5 * tensors[b].double() @ tensors[a].double()
        if get_frozen_delta_names(module)[0] in factors:
            A, B = (factors[name].double() for name in get_frozen_delta_names(module))
            deltas[module] = deltas[module] + B @ A
    return deltas


def deltas_inside(slot):
    return [module for module in slot.model.modules() if isinstance(module, FrozenDelta)]


@BOTH
@pytest.mark.parametrize("rank", [0, 1, 5, 40])  # 40: every module dense
def test_logits_are_those_of_changed_weights(architecture, rank, lora_slot, factors, dense_oracle, padded):
    slot, batch = lora_slot(architecture), padded()
    before, given = logits(slot, batch), factors(slot, rank)
    slot.set_frozen_delta(given)
    expected = plain_logits(dense_oracle(architecture, slot, products(slot, given)), batch)
    torch.testing.assert_close(logits(slot, batch), expected, rtol=1e-4, atol=1e-4)
    assert (logits(slot, batch) - before).abs().max() > 0.05 or rank == 0
    assert all((delta.dense is not None) == (rank == 40) for delta in deltas_inside(slot))
    slot.set_frozen_delta({})
    assert torch.equal(logits(slot, batch), before) and slot.frozen_delta == {} and not deltas_inside(slot)


@BOTH
@pytest.mark.parametrize("rank", [5, 40])
def test_gradients_are_those_of_changed_weights(architecture, rank, lora_slot, factors, dense_oracle, padded):
    """Of W + s B A + M: the gradient of A is s B^T G and of B it is s G A^T, with G that of the weight; it reaches
    early blocks only through the deltas of later ones."""
    slot, batch = lora_slot(architecture), padded()
    given = factors(slot, rank)
    slot.set_frozen_delta(given)
    slot.model(**batch, labels=LABELS).loss.backward()
    gradients = dict(zip(slot.names, (p.grad for p in slot.parameters()), strict=True))
    oracle, tensors = dense_oracle(architecture, slot, products(slot, given)), slot.read()
    oracle(**batch, labels=LABELS).loss.backward()
    for module, a, b in find_lora_pairs(slot.names):
        layer = oracle.get_submodule(module.removeprefix("base_model.model."))
        G = layer.weight.grad.T if architecture == "gpt2" else layer.weight.grad  # (d_out, d_in)
        close = {"rtol": 1e-3, "atol": 1e-4 * float(G.abs().max()) + 1e-9}
        torch.testing.assert_close(gradients[a].double(), 1.5 * tensors[b].double().T @ G, **close)
        torch.testing.assert_close(gradients[b].double(), 1.5 * G @ tensors[a].double().T, **close)
    for name in filter(is_head, slot.names):
        expected = oracle.classifier.get_parameter(name.rsplit(".", 1)[-1]).grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-3, atol=1e-5)
    assert not any(buffer.requires_grad for buffer in slot.model.buffers())


def test_merge_replaces_and_merged_gives_back_what_was_given(lora_slot, factors, padded):
    slot, batch = lora_slot("bert"), padded()
    first, second = factors(slot, 3, seed=1), factors(slot, 2, seed=2)
    some = dict(list(second.items())[:2])
    slot.set_frozen_delta(first)
    assert slot.frozen_delta.keys() == first.keys() and all(
        torch.equal(slot.frozen_delta[n], t) for n, t in first.items()
    )
    slot.set_frozen_delta(some)  # one module; the others lose theirs
    assert slot.frozen_delta.keys() == some.keys()
    got = logits(slot, batch)
    slot.frozen_delta[next(iter(some))].zero_()
    next(iter(some.values())).zero_()
    assert torch.equal(logits(slot, batch), got), "the slot holds copies"


def test_ranks_may_differ_and_the_smaller_form_is_held(lora_slot, factors):
    slot = lora_slot("bert")
    modules = list(slot.get_dimensions())
    ranks = [0, 1, 16, 17, 200, 3]  # 16 * (32 + 32) = 32 * 32: not more
    given = {}
    for module, rank in zip(modules, ranks, strict=False):
        given |= {n: t for n, t in factors(slot, rank).items() if n in get_frozen_delta_names(module)}
    slot.set_frozen_delta(given)
    for module, rank in zip(modules, ranks, strict=False):
        d_out, d_in = slot.get_dimensions()[module]
        delta = get_frozen_delta(slot.model.get_submodule(module))
        assert (delta.dense is not None) == (rank * (d_in + d_out) > d_in * d_out)
        assert sum(buffer.numel() for buffer in delta.buffers()) == min(rank * (d_in + d_out), d_in * d_out)


def test_a_dense_delta_comes_back_as_an_equal_pair_that_merges_to_the_same(lora_slot, factors, padded):
    slot, batch = lora_slot("bert"), padded()
    given = factors(slot, 40)
    slot.set_frozen_delta(given)
    got, back = logits(slot, batch), slot.frozen_delta
    for module, (d_out, d_in) in slot.get_dimensions().items():
        a, b = get_frozen_delta_names(module)
        assert back[a].shape == (min(d_in, d_out), d_in) and back[b].shape == (d_out, min(d_in, d_out))
        torch.testing.assert_close(back[b] @ back[a], given[b] @ given[a], rtol=1e-5, atol=1e-6)
    slot.set_frozen_delta(back)
    assert torch.equal(logits(slot, batch), got)


@pytest.mark.parametrize("rank", [3, 40])
def test_clones_are_independent_and_share_what_is_merged(rank, lora_slot, factors, padded):
    slot, batch = lora_slot("bert"), padded()
    plain = logits(slot, batch)
    slot.set_frozen_delta(factors(slot, rank))
    got, twin = logits(slot, batch), slot.clone()
    assert torch.equal(logits(twin, batch), got)
    assert {id(b) for b in twin.model.buffers()} == {id(b) for b in slot.model.buffers()}
    twin.set_frozen_delta({})
    assert torch.equal(logits(twin, batch), plain) and torch.equal(logits(slot, batch), got)
    other = slot.clone()
    slot.set_frozen_delta(factors(slot, 2, seed=9))
    assert torch.equal(logits(other, batch), got) and not torch.equal(logits(slot, batch), got)


def test_what_is_wrong_is_refused_before_anything_is_changed(lora_slot, factors, padded):
    slot, batch = lora_slot("bert"), padded()
    kept = factors(slot, 3)
    slot.set_frozen_delta(kept)
    got = logits(slot, batch)
    good, module = factors(slot, 2, seed=8), next(iter(slot.get_dimensions()))
    a, b = get_frozen_delta_names(module)
    cases = {
        r"Received: base_model.model.classifier.merged_A$": good
        | {"base_model.model.classifier.merged_A": torch.ones(1, 32)},
        rf"belong together. Received: only {b}$": {n: t for n, t in good.items() if n != a},
        r"Received: \(2, 31\) and \(32, 2\)$": good | {a: torch.ones(2, 31)},
        r"Received: \(2, 32\) and \(32, 3\)$": good | {b: torch.ones(32, 3)},
        r"Received: \(64,\) and \(32, 2\)$": good | {a: torch.ones(64)},
        r"Received: \(\) and \(32, 2\)$": good | {a: torch.ones(())},
    }
    for message, tensors in cases.items():
        with pytest.raises(ValueError, match=message):
            slot.set_frozen_delta(tensors)
        assert torch.equal(logits(slot, batch), got)


def test_loreft_has_nothing_to_merge_into(tiny_classifier):
    slot = AdaptedModel(get_peft_model(tiny_classifier("bert"), LoReftConfig(r=2)))
    slot.set_frozen_delta({})
    assert slot.frozen_delta == {} and slot.get_rows() == {} and slot.get_dimensions() == {}
    with pytest.raises(ValueError, match=r"Received: x.merged_A$"):
        slot.set_frozen_delta({"x.merged_A": torch.ones(1, 1)})


@BOTH
def test_training_leaves_backbone_and_delta_bit_unchanged(architecture, lora_slot, factors, padded):
    slot, batch = lora_slot(architecture), padded()
    slot.set_frozen_delta(factors(slot, 3))
    trained = {id(p) for p in slot.parameters()}
    frozen = [
        (t, t.detach().clone()) for t in [*slot.model.parameters(), *slot.model.buffers()] if id(t) not in trained
    ]
    merged, names = slot.frozen_delta, slot.names
    optimiser = torch.optim.AdamW(slot.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = slot.model(**batch, labels=LABELS).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(tensor, before) for tensor, before in frozen)
    assert all(torch.equal(slot.frozen_delta[name], tensor) for name, tensor in merged.items())
    assert slot.names == names == tuple(slot.read()), "nothing merged is trained or travels unasked"


@pytest.mark.parametrize("rank", [3, 40])
def test_on_a_bfloat16_backbone_the_delta_stays_float32(rank, lora_slot, factors, padded):
    slot, batch = lora_slot("bert", dtype=torch.bfloat16), padded()
    plain = logits(slot, batch)
    slot.set_frozen_delta({name: tensor.double() for name, tensor in factors(slot, rank).items()})
    assert {tensor.dtype for tensor in slot.frozen_delta.values()} == {torch.float32}
    module, (d_out, d_in) = next(iter(slot.get_dimensions().items()))
    out = slot.model.get_submodule(module)(torch.ones(1, d_in, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16 and out.shape == (1, d_out)
    assert not torch.equal(logits(slot, batch), plain)
    loss = slot.model(**batch, labels=LABELS).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in slot.parameters())


def test_a_snapshot_carries_what_is_merged(lora_slot, factors, padded):
    slot, batch = lora_slot("bert"), padded()
    empty, plain = slot.snapshot(), logits(slot, batch)
    slot.set_frozen_delta(factors(slot, 3))
    full, got = slot.snapshot(), logits(slot, batch)
    slot.restore(empty)
    assert torch.equal(logits(slot, batch), plain)
    slot.restore(full)
    assert torch.equal(logits(slot, batch), got)
    with pytest.raises(ValueError, match=r"Received: nonsense$"):
        slot.restore(full | {"nonsense": torch.zeros(1)})
