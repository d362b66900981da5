"""LoRA with a core: B R A against dense weights, R's gradient, its export, and what does not go with it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fedpeft.adapters import AdaptedModel, find_lora_pairs, make_lora_config
from fedpeft.adapters.lora.core import CoreLoraConfig
from fedpeft.adapters.lora.kind import LoraKind
from fedpeft.errors import UserError


@pytest.fixture
def core(tiny):
    """core("llama") -> an adapted model in float64 away from its start, and the plain model."""

    def build(architecture, stirred=True):
        plain = tiny(architecture).double()
        model = AdaptedModel(
            get_peft_model(copy.deepcopy(plain), make_lora_config(plain, 3, 4.5, has_core=True)).double()
        )
        if stirred:
            draw = torch.Generator().manual_seed(0)
            model.write({n: 0.3 * torch.randn(t.shape, generator=draw).double() for n, t in model.read().items()})
        return model, plain

    return build


def test_only_r_is_small_and_the_start_is_the_base_model(core, padded):
    model, plain = core("llama", stirred=False)
    for module, a, b in find_lora_pairs(model.names):
        d_out, d_in = model.get_dimensions()[module]
        shapes = {name: tuple(t.shape) for name, t in model.read().items() if name.startswith(module)}
        assert shapes == {a: (3, d_in), b: (3, 3), f"{module}.lora_B.basis": (d_out, 3)}
    with torch.no_grad():
        assert torch.equal(model.model(**padded()).logits, plain(**padded()).logits)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_update_is_s_b_r_a_and_exported_as_ordinary_lora(core, architecture, padded):
    model, _ = core(architecture)
    tensors = model.read()
    for module, (A, B) in model.effective_factors.items():
        expected = 1.5 * tensors[f"{module}.lora_B.basis"] @ tensors[f"{module}.lora_B.weight"]
        torch.testing.assert_close(B @ A, expected @ tensors[f"{module}.lora_A.weight"], rtol=0, atol=1e-12)
    exported = LoraKind().make_exportable(model)
    assert type(exported.peft_config["default"]) is LoraConfig
    with torch.no_grad():
        logits = model.model(**padded()).logits
        torch.testing.assert_close(exported(**padded()).logits, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.clone().model(**padded()).logits, logits)


def test_the_gradient_of_r_is_that_of_the_product_between_the_factors(core, padded):
    """dL/dR = s B^T (dL/dW) A^T."""
    model, _ = core("llama")
    ordinary = LoraKind().make_exportable(model)
    model.model(**padded()).logits.square().sum().backward()
    ordinary(**padded()).logits.square().sum().backward()
    tensors = dict(zip(model.names, model.parameters(), strict=True))
    for module, a, b in find_lora_pairs(model.names):
        layer = ordinary.get_submodule(module)
        # The exported pair is (B R s, A), so that dL/dB' = (dL/dW) A^T.
        expected = 1.5 * tensors[f"{module}.lora_B.basis"].mT @ layer.lora_B["default"].weight.grad
        torch.testing.assert_close(tensors[b].grad, expected, rtol=1e-8, atol=1e-8)
        assert tensors[a].shape[0] == 3


def test_what_needs_an_ordinary_b_is_refused_by_its_name(core):
    with pytest.raises(UserError, match=r"trains R between two plain factors.*use_dora=True"):
        CoreLoraConfig(use_dora=True)
    model, _ = core("llama")
    with pytest.raises(UserError, match="convert_to_lora"):
        model.model.merge_adapter()
    with pytest.raises(UserError, match="convert_to_lora"):
        model.model.add_weighted_adapter(["default"], [1.0], "sum")
