"""The frozen delta beside the trained pair, against float64 models whose weights really were changed."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig, find_lora_pairs, get_frozen_delta_names, is_head
from fedpeft.adapters.lora.frozen_delta import FrozenDelta, get_frozen_delta

BOTH = pytest.mark.parametrize("architecture", ["bert", "gpt2"])  # bert: 32 -> 48 -> 32; gpt2: Conv1D, 32 -> 96, 128
LABELS = torch.tensor([0, 1, 2])


def logits(adapted, batch):
    with torch.no_grad():
        return adapted.model(**batch).logits


def plain_logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def products(adapted, factors):
    """Everything that the model adds to its weights, (d_out, d_in) float64 by module, from the definition."""
    tensors, deltas = adapted.read(), {}
    for module, a, b in find_lora_pairs(adapted.names):
        deltas[module] = 1.5 * tensors[b].double() @ tensors[a].double()
        if get_frozen_delta_names(module)[0] in factors:
            A, B = (factors[name].double() for name in get_frozen_delta_names(module))
            deltas[module] = deltas[module] + B @ A
    return deltas


def deltas_inside(adapted):
    return [module for module in adapted.model.modules() if isinstance(module, FrozenDelta)]


@BOTH
@pytest.mark.parametrize("rank", [0, 1, 5, 40])  # 40: every module dense
def test_logits_are_those_of_changed_weights(architecture, rank, lora_model, factors, dense_oracle, padded):
    adapted, batch = lora_model(architecture), padded()
    before, given = logits(adapted, batch), factors(adapted, rank)
    adapted.set_frozen_delta(given)
    expected = plain_logits(dense_oracle(architecture, adapted, products(adapted, given)), batch)
    torch.testing.assert_close(logits(adapted, batch), expected, rtol=1e-4, atol=1e-4)
    assert (logits(adapted, batch) - before).abs().max() > 0.05 or rank == 0
    assert all((delta.dense is not None) == (rank == 40) for delta in deltas_inside(adapted))
    adapted.set_frozen_delta({})
    assert torch.equal(logits(adapted, batch), before) and adapted.frozen_delta == {} and not deltas_inside(adapted)


@BOTH
@pytest.mark.parametrize("rank", [5, 40])
def test_gradients_are_those_of_changed_weights(architecture, rank, lora_model, factors, dense_oracle, padded):
    """Of W + s B A + M: the gradient of A is s B^T G and of B it is s G A^T, with G that of the weight; it reaches
    early blocks only through the deltas of later ones."""
    adapted, batch = lora_model(architecture), padded()
    given = factors(adapted, rank)
    adapted.set_frozen_delta(given)
    adapted.model(**batch, labels=LABELS).loss.backward()
    gradients = dict(zip(adapted.names, (p.grad for p in adapted.parameters()), strict=True))
    oracle, tensors = dense_oracle(architecture, adapted, products(adapted, given)), adapted.read()
    oracle(**batch, labels=LABELS).loss.backward()
    for module, a, b in find_lora_pairs(adapted.names):
        layer = oracle.get_submodule(module.removeprefix("base_model.model."))
        G = layer.weight.grad.T if architecture == "gpt2" else layer.weight.grad  # (d_out, d_in)
        close = {"rtol": 1e-3, "atol": 1e-4 * float(G.abs().max()) + 1e-9}
        torch.testing.assert_close(gradients[a].double(), 1.5 * tensors[b].double().T @ G, **close)
        torch.testing.assert_close(gradients[b].double(), 1.5 * G @ tensors[a].double().T, **close)
    for name in filter(is_head, adapted.names):
        expected = oracle.classifier.get_parameter(name.rsplit(".", 1)[-1]).grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-3, atol=1e-5)
    assert not any(buffer.requires_grad for buffer in adapted.model.buffers())


def test_setting_replaces_and_reading_returns_what_was_set(lora_model, factors, padded):
    adapted, batch = lora_model("bert"), padded()
    first, second = factors(adapted, 3, seed=1), factors(adapted, 2, seed=2)
    some = dict(list(second.items())[:2])
    adapted.set_frozen_delta(first)
    assert adapted.frozen_delta.keys() == first.keys() and all(
        torch.equal(adapted.frozen_delta[n], t) for n, t in first.items()
    )
    adapted.set_frozen_delta(some)  # one module; the others lose theirs
    assert adapted.frozen_delta.keys() == some.keys()
    got = logits(adapted, batch)
    adapted.frozen_delta[next(iter(some))].zero_()
    next(iter(some.values())).zero_()
    assert torch.equal(logits(adapted, batch), got), "the model holds copies"


def test_ranks_may_differ_and_the_smaller_form_is_held(lora_model, factors):
    adapted = lora_model("bert")
    modules = list(adapted.get_dimensions())
    ranks = [0, 1, 16, 17, 200, 3]  # 16 * (32 + 32) = 32 * 32: not more
    given = {}
    for module, rank in zip(modules, ranks, strict=False):
        given |= {n: t for n, t in factors(adapted, rank).items() if n in get_frozen_delta_names(module)}
    adapted.set_frozen_delta(given)
    for module, rank in zip(modules, ranks, strict=False):
        d_out, d_in = adapted.get_dimensions()[module]
        delta = get_frozen_delta(adapted.model.get_submodule(module))
        assert (delta.dense is not None) == (rank * (d_in + d_out) > d_in * d_out)
        assert sum(buffer.numel() for buffer in delta.buffers()) == min(rank * (d_in + d_out), d_in * d_out)


def test_a_dense_delta_comes_back_as_an_equal_pair_that_merges_to_the_same(lora_model, factors, padded):
    adapted, batch = lora_model("bert"), padded()
    given = factors(adapted, 40)
    adapted.set_frozen_delta(given)
    got, back = logits(adapted, batch), adapted.frozen_delta
    for module, (d_out, d_in) in adapted.get_dimensions().items():
        a, b = get_frozen_delta_names(module)
        assert back[a].shape == (min(d_in, d_out), d_in) and back[b].shape == (d_out, min(d_in, d_out))
        torch.testing.assert_close(back[b] @ back[a], given[b] @ given[a], rtol=1e-5, atol=1e-6)
    adapted.set_frozen_delta(back)
    assert torch.equal(logits(adapted, batch), got)


@pytest.mark.parametrize("rank", [3, 40])
def test_clones_are_independent_and_share_the_delta(rank, lora_model, factors, padded):
    adapted, batch = lora_model("bert"), padded()
    plain = logits(adapted, batch)
    adapted.set_frozen_delta(factors(adapted, rank))
    got, twin = logits(adapted, batch), adapted.clone()
    assert torch.equal(logits(twin, batch), got)
    assert {id(b) for b in twin.model.buffers()} == {id(b) for b in adapted.model.buffers()}
    twin.set_frozen_delta({})
    assert torch.equal(logits(twin, batch), plain) and torch.equal(logits(adapted, batch), got)
    other = adapted.clone()
    adapted.set_frozen_delta(factors(adapted, 2, seed=9))
    assert torch.equal(logits(other, batch), got) and not torch.equal(logits(adapted, batch), got)


def test_wrong_factors_are_refused_before_anything_is_changed(lora_model, factors, padded):
    adapted, batch = lora_model("bert"), padded()
    kept = factors(adapted, 3)
    adapted.set_frozen_delta(kept)
    got = logits(adapted, batch)
    good, module = factors(adapted, 2, seed=8), next(iter(adapted.get_dimensions()))
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
            adapted.set_frozen_delta(tensors)
        assert torch.equal(logits(adapted, batch), got)


def test_loreft_has_no_frozen_delta(tiny_classifier):
    adapted = AdaptedModel(get_peft_model(tiny_classifier("bert"), LoReftConfig(r=2)))
    adapted.set_frozen_delta({})
    assert adapted.frozen_delta == {} and adapted.get_rows() == {} and adapted.get_dimensions() == {}
    with pytest.raises(ValueError, match=r"Received: x.merged_A$"):
        adapted.set_frozen_delta({"x.merged_A": torch.ones(1, 1)})


@BOTH
def test_training_leaves_backbone_and_delta_bit_unchanged(architecture, lora_model, factors, padded):
    adapted, batch = lora_model(architecture), padded()
    adapted.set_frozen_delta(factors(adapted, 3))
    trained = {id(p) for p in adapted.parameters()}
    frozen = [
        (t, t.detach().clone()) for t in [*adapted.model.parameters(), *adapted.model.buffers()] if id(t) not in trained
    ]
    merged, names = adapted.frozen_delta, adapted.names
    optimiser = torch.optim.AdamW(adapted.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = adapted.model(**batch, labels=LABELS).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(tensor, before) for tensor, before in frozen)
    assert all(torch.equal(adapted.frozen_delta[name], tensor) for name, tensor in merged.items())
    assert adapted.names == names == tuple(adapted.read()), "nothing merged is trained or travels unasked"


@pytest.mark.parametrize("rank", [3, 40])
def test_on_a_bfloat16_backbone_the_delta_stays_float32(rank, lora_model, factors, padded):
    adapted, batch = lora_model("bert", dtype=torch.bfloat16), padded()
    plain = logits(adapted, batch)
    adapted.set_frozen_delta({name: tensor.double() for name, tensor in factors(adapted, rank).items()})
    assert {tensor.dtype for tensor in adapted.frozen_delta.values()} == {torch.float32}
    module, (d_out, d_in) = next(iter(adapted.get_dimensions().items()))
    out = adapted.model.get_submodule(module)(torch.ones(1, d_in, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16 and out.shape == (1, d_out)
    assert not torch.equal(logits(adapted, batch), plain)
    loss = adapted.model(**batch, labels=LABELS).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapted.parameters())


def test_a_snapshot_carries_the_delta(lora_model, factors, padded):
    adapted, batch = lora_model("bert"), padded()
    empty, plain = adapted.snapshot(), logits(adapted, batch)
    adapted.set_frozen_delta(factors(adapted, 3))
    full, got = adapted.snapshot(), logits(adapted, batch)
    adapted.restore(empty)
    assert torch.equal(logits(adapted, batch), plain)
    adapted.restore(full)
    assert torch.equal(logits(adapted, batch), got)
    with pytest.raises(ValueError, match=r"Received: nonsense$"):
        adapted.restore(full | {"nonsense": torch.zeros(1)})
