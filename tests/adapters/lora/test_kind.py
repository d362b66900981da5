"""LoRA as a kind: what it exports, and that all of it decays."""

import pytest
import torch
from peft import LoraConfig

from fedpeft.adapters import MaskedLoraConfig
from fedpeft.adapters.lora.kind import LoraKind


def test_plain_lora_is_exported_as_it_is(lora_model):
    model = lora_model("bert")
    assert LoraKind().make_exportable(model) is model.model


@pytest.mark.parametrize(("density", "rank"), [(0.5, 0), (1.0, 3), (0.5, 3)])
def test_what_peft_does_not_know_is_exported_as_ordinary_lora(density, rank, lora_model, factors, padded):
    model, batch = lora_model("bert", density=density), padded()
    model.set_frozen_delta(factors(model, rank) if rank else {})
    exported = LoraKind().make_exportable(model)
    config = exported.peft_config["default"]
    assert type(config) is LoraConfig and config.r == 2 + rank
    with torch.no_grad():
        torch.testing.assert_close(exported(**batch).logits, model.model(**batch).logits, rtol=1e-4, atol=1e-4)
    assert isinstance(model.model.peft_config["default"], MaskedLoraConfig) == (density < 1)


def test_every_tensor_decays(lora_model):
    assert all(LoraKind().is_decayed(name) for name in lora_model("bert").names)
