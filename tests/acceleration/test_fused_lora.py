"""LoRA as one operation: the same numbers and gradients as PEFT's layer, and PEFT's layer wherever more is asked."""

import pytest
import torch
from helpers.steps import LABELS, step
from peft import LoraConfig, get_peft_model

from fedpeft.acceleration.fused_lora import FusedForward, fuse_lora_
from fedpeft.adapters import AdaptedModel, fused_lora, make_lora_config


@pytest.fixture
def counted(monkeypatch):
    """A list that grows with every fused product."""
    calls, apply = [], fused_lora._Fused.apply
    monkeypatch.setattr(fused_lora._Fused, "apply", lambda *given: calls.append(given) or apply(*given))
    return calls


def assert_close(one, other, share=1e-5):
    for name in other:
        assert (one[name] - other[name]).norm() <= share * other[name].norm(), name


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layers_formula(bias):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (5, 4), "W": (3, 4), "bias": (3,), "A": (2, 4), "B": (3, 2)}
    x, W, b, A, B = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes.values())
    b = b if bias else None
    expected = x @ W.T + (b if bias else 0) + 1.7 * x @ A.T @ B.T
    torch.testing.assert_close(fused_lora._Fused.apply(x, W, b, A, B, 1.7), expected)
    trained = [t.requires_grad_() for t in (x, A, B)]
    assert torch.autograd.gradcheck(lambda x, A, B: fused_lora._Fused.apply(x, W, b, A, B, 1.7), trained)


@pytest.mark.parametrize("trained", ["both", "lora_A", "lora_B"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_logits_and_gradients_are_those_of_peft(architecture, trained, lora_slot, padded, counted):
    slot, batch = lora_slot(architecture), padded()
    names = [name for name in slot.names if trained in ("both", name.split(".")[-2]) or "classifier" in name]
    for name, parameter in zip(slot.names, slot.parameters(), strict=True):
        parameter.requires_grad_(name in names)

    def gradients():
        output = slot.model(**batch, labels=LABELS)
        return {"logits": output.logits} | dict(
            zip(names, torch.autograd.grad(output.loss, slot.parameters(names)), strict=True)
        )

    plain = gradients()
    assert not counted
    fuse_lora_(slot.model)
    fused = gradients()
    assert_close(fused, plain)
    assert len(counted) == len(slot.get_dimensions())


@pytest.mark.parametrize("trained, kept", [("A", {(5, 4)}), ("B", {(5, 2)})])
def test_only_what_the_trained_factor_needs_is_kept(trained, kept):
    x, W, A, B = torch.randn(5, 4), torch.randn(3, 4), torch.randn(2, 4), torch.randn(3, 2)
    (A if trained == "A" else B).requires_grad_()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (seen.append(tuple(t.shape)), t)[1], lambda t: t):
        fused_lora._Fused.apply(x, W, None, A, B, 1.0)
    assert set(seen) - {(3, 4), (2, 4), (3, 2)} == kept  # beside the weights, which are there anyway


@pytest.mark.parametrize(
    "case", ["merged", "masked", "gpt2", "autocast", "bfloat16", "rslora", "dora", "dropout", "bias"]
)
def test_whatever_is_not_plain_runs_as_in_peft(case, lora_slot, tiny_classifier, factors, padded, counted):
    if case in ("dora", "dropout", "rslora", "bias"):
        plain = tiny_classifier("bert")
        options = {
            "dora": {"use_dora": True},
            "dropout": {"lora_dropout": 0.5},
            "rslora": {"use_rslora": True},
            "bias": {"bias": "lora_only"},
        }[case]
        slot = AdaptedModel(get_peft_model(plain, LoraConfig(r=2, target_modules=["query"], **options)))
    else:
        dtype = torch.bfloat16 if case == "bfloat16" else None
        slot = lora_slot("gpt2" if case == "gpt2" else "bert", dtype=dtype, density=0.3 if case == "masked" else 1.0)
    if case == "merged":
        slot.set_frozen_delta(factors(slot, 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), torch.no_grad():
        expected = slot.model(**padded()).logits
        fuse_lora_(slot.model)
        found = slot.model(**padded()).logits
    if case == "rslora":  # another scale, and else plain
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)
    assert bool(counted) == (case == "rslora")


def test_what_is_merged_later_counts(lora_slot, factors, padded, counted):
    slot, other = lora_slot("bert"), lora_slot("bert")
    fuse_lora_(slot.model)
    for one in (slot, other):
        one.set_frozen_delta(factors(one, 3))
    assert_close(step(slot, padded()), step(other, padded()))
    assert not counted
    for one in (slot, other):
        one.set_frozen_delta({})
    assert_close(step(slot, padded()), step(other, padded()))
    assert counted


def test_several_or_no_adapters_run_as_in_peft(tiny_classifier, stir, padded, counted):
    plain = tiny_classifier("bert")
    model = get_peft_model(plain, make_lora_config(plain, r=2, alpha=3)).eval()
    stir(model)
    fuse_lora_(model)
    fuse_lora_(model)  # a second time changes nothing
    layers = [m for m in model.modules() if isinstance(getattr(m, "forward", None), FusedForward)]
    assert layers
    with model.disable_adapter():
        model(**padded())
    assert not counted
    model.base_model.disable_adapter_layers()
    model(**padded())
    assert not counted
