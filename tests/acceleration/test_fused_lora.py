"""LoRA as one operation: PEFT's numbers and gradients, and PEFT's own layer wherever it is not plain."""

from types import SimpleNamespace

import pytest
import torch
from helpers.steps import LABELS, assert_close, step
from peft import LoraConfig, get_peft_model

from fedpeft.acceleration import fused_lora
from fedpeft.acceleration.fused_lora import FusedForward, FusedLora, fuse_lora_
from fedpeft.adapters import AdaptedModel, make_lora_config

TOLERANCE = 2e-6  # the head is float32, all below it float64


@pytest.fixture
def products(monkeypatch):
    """A list that grows with every fused product."""
    calls, apply = [], fused_lora._LoraProduct.apply
    monkeypatch.setattr(fused_lora._LoraProduct, "apply", lambda *operands: calls.append(operands) or apply(*operands))
    return calls


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product_and_its_gradients_are_those_of_the_formula(has_bias):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (5, 4), "W": (3, 4), "bias": (3,), "A": (2, 4), "B": (3, 2)}
    x, W, bias, A, B = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes.values())
    bias = bias if has_bias else None
    expected = x @ W.T + (bias if has_bias else 0) + 1.7 * x @ A.T @ B.T
    torch.testing.assert_close(fused_lora._LoraProduct.apply(x, W, bias, A, B, 1.7), expected)
    trained = [tensor.requires_grad_() for tensor in (x, A, B)]
    assert torch.autograd.gradcheck(lambda x, A, B: fused_lora._LoraProduct.apply(x, W, bias, A, B, 1.7), trained)


@pytest.mark.parametrize("trained", ["both", "lora_A", "lora_B"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_logits_and_gradients_are_those_of_peft(architecture, trained, build, padded, products):
    model, batch = build("lora", architecture), padded()
    names = [name for name in model.names if trained in ("both", name.split(".")[-2]) or "classifier" in name]
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        parameter.requires_grad_(name in names)

    def gradients():
        output = model.model(**batch, labels=LABELS)
        values = torch.autograd.grad(output.loss, model.parameters(names))
        return {"logits": output.logits} | dict(zip(names, values, strict=True))

    expected = gradients()
    assert not products
    FusedLora().install_(model)
    assert_close(gradients(), expected, TOLERANCE)
    assert len(products) == len(model.get_dimensions())


@pytest.mark.parametrize("trained, kept", [("A", {(5, 4)}), ("B", {(5, 2)})])
def test_only_what_the_trained_factor_needs_is_kept(trained, kept):
    x, W, A, B = torch.randn(5, 4), torch.randn(3, 4), torch.randn(2, 4), torch.randn(3, 2)
    (A if trained == "A" else B).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(tuple(t.shape)), t)[1], lambda t: t):
        fused_lora._LoraProduct.apply(x, W, None, A, B, 1.0)
    assert set(saved) - {(3, 4), (2, 4), (3, 2)} == kept  # beside the weights, which exist anyway


PEFT_OPTIONS = {
    "dora": {"use_dora": True},
    "dropout": {"lora_dropout": 0.5},
    "rslora": {"use_rslora": True},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize(
    "case", ["frozen delta", "masked", "gpt2", "autocast", "bfloat16", "rslora", "dora", "dropout", "bias"]
)
def test_a_layer_that_is_not_plain_runs_as_in_peft(case, lora_model, tiny_classifier, factors, padded, products):
    if case in PEFT_OPTIONS:
        config = LoraConfig(r=2, target_modules=["query"], **PEFT_OPTIONS[case])
        peft_model = get_peft_model(tiny_classifier("bert"), config).eval()
        model = SimpleNamespace(model=peft_model) if case == "dropout" else AdaptedModel(peft_model)  # not for clients
    else:
        dtype = torch.bfloat16 if case == "bfloat16" else None
        model = lora_model("gpt2" if case == "gpt2" else "bert", dtype=dtype, density=0.3 if case == "masked" else 1.0)
    if case == "frozen delta":
        model.set_frozen_delta(factors(model, 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), torch.no_grad():
        expected = model.model(**padded()).logits
        fuse_lora_(model.model)
        logits = model.model(**padded()).logits
    if case == "rslora":  # another scale, and plain in everything else
        torch.testing.assert_close(logits, expected)
    else:
        assert torch.equal(logits, expected)
    assert bool(products) == (case == "rslora")


def test_a_frozen_delta_that_is_set_later_counts(build, factors, padded, products):
    fused, plain = build("lora", "bert"), build("lora", "bert")
    fuse_lora_(fused.model)
    for model in (fused, plain):
        model.set_frozen_delta(factors(model, 3))
    assert_close(step(fused, padded()), step(plain, padded()), TOLERANCE)
    assert not products
    for model in (fused, plain):
        model.set_frozen_delta({})
    assert_close(step(fused, padded()), step(plain, padded()), TOLERANCE)
    assert products


def test_a_base_layer_that_trains_runs_as_in_peft(build, padded, products):
    model = build("lora", "bert")
    fuse_lora_(model.model)
    layers = [module for module in model.model.modules() if isinstance(getattr(module, "forward", None), FusedForward)]
    layers[0].base_layer.weight.requires_grad_(True)
    step(model, padded())
    assert len(products) == len(layers) - 1
    assert layers[0].base_layer.weight.grad.any()


def test_disabled_adapters_run_as_in_peft(tiny_classifier, stir, padded, products):
    plain = tiny_classifier("bert")
    model = get_peft_model(plain, make_lora_config(plain, r=2, alpha=3)).eval()
    stir(model)
    fuse_lora_(model)
    fuse_lora_(model)  # a second time changes nothing
    layers = [module for module in model.modules() if isinstance(getattr(module, "forward", None), FusedForward)]
    assert layers and not any(isinstance(layer.forward._peft_forward, FusedForward) for layer in layers)
    with model.disable_adapter():
        model(**padded())
    assert not products
    model.base_model.disable_adapter_layers()
    model(**padded())
    assert not products


def test_several_active_adapters_run_as_in_peft(tiny_classifier, stir, padded, products):
    plain = tiny_classifier("bert")
    first, second = make_lora_config(plain, r=2, alpha=3), make_lora_config(plain, r=3, alpha=3)
    second.modules_to_save = None
    model = get_peft_model(plain, first).eval()
    model.add_adapter("second", second)
    model.base_model.set_adapter(["default", "second"])
    stir(model)
    with torch.no_grad():
        expected = model(**padded()).logits
        fuse_lora_(model)
        assert torch.equal(model(**padded()).logits, expected)
    assert not products
