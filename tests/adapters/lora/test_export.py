"""A slot as an ordinary PEFT LoRA: the same logits, and a folder that PEFT reads without our classes."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from fedpeft.adapters import AdaptedModel, LoReftConfig, MaskedLoraConfig, convert_to_lora, get_frozen_delta_names
from fedpeft.adapters.lora.export import limit_rank

BOTH = pytest.mark.parametrize("architecture", ["bert", "gpt2"])


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@BOTH
@pytest.mark.parametrize("rank", [0, 3, 31, 40])  # with the pair's 2: 31 exceeds modules of width 32, 40 is dense
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_saved_and_loaded_it_has_the_slots_logits(
    architecture, rank, density, lora_slot, factors, tiny_classifier, padded, tmp_path
):
    slot, batch = lora_slot(architecture, density=density), padded()
    slot.set_frozen_delta(factors(slot, rank))
    slot.set_rows({module: rows + 3 for module, rows in slot.get_rows().items()})
    kept, expected = slot.snapshot(), logits(slot.model, batch)
    model = convert_to_lora(slot)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert type(LoraConfig.from_pretrained(str(tmp_path))) is LoraConfig
    loaded = PeftModel.from_pretrained(tiny_classifier(architecture), str(tmp_path)).eval()
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert torch.equal(logits(slot.model, batch), expected), "the slot is left as it was"
    assert slot.snapshot().keys() == kept.keys()


def test_the_folder_is_plain_and_ranks_are_bounded(lora_slot, factors, tmp_path):
    slot = lora_slot("bert")
    modules = list(slot.get_dimensions())
    given = {n: t for n, t in factors(slot, 3).items() if n in get_frozen_delta_names(modules[0])}
    given |= {n: t for n, t in factors(slot, 100).items() if n in get_frozen_delta_names(modules[1])}
    slot.set_frozen_delta(given)
    convert_to_lora(slot).save_pretrained(str(tmp_path), save_embedding_layers=False)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    ranks = {m: tensors[f"{m}.lora_A.weight"].shape[0] for m in modules}
    assert ranks == dict.fromkeys(modules, 2) | {modules[0]: 5, modules[1]: 32}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and not any("merged" in name or "rows" in name for name in tensors)
    assert config["lora_alpha"] == config["r"] == 32 and config["alpha_pattern"] == config["rank_pattern"]


def test_it_loads_where_our_package_is_never_imported(lora_slot, factors, tmp_path):
    slot = lora_slot("bert", density=0.5)
    slot.set_frozen_delta(factors(slot, 3))
    convert_to_lora(slot).save_pretrained(str(tmp_path), save_embedding_layers=False)
    code = f"""
import sys
from peft import PeftConfig
config = PeftConfig.from_pretrained({str(tmp_path)!r})
assert type(config).__name__ == "LoraConfig" and config.r == 5, config
assert not any(name.startswith("fedpeft") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_frozen_backbone_is_shared_and_nothing_else(lora_slot, factors):
    slot = lora_slot("bert")
    slot.set_frozen_delta(factors(slot, 3))
    model = convert_to_lora(slot)
    blocks = {id(p) for name, p in slot.model.named_parameters() if "base_layer" in name or "LayerNorm" in name}
    trained = {id(p) for p in slot.parameters()}
    mine = {id(p) for p in model.parameters()}
    assert blocks <= mine and not mine & trained
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    assert all(tensor.any() for name, tensor in slot.read().items() if "lora_B" in name)


def test_on_a_bfloat16_backbone(lora_slot, factors, padded):
    slot, batch = lora_slot("bert", dtype=torch.bfloat16, density=0.5), padded()
    slot.set_frozen_delta(factors(slot, 3, scale=0.05))
    torch.testing.assert_close(logits(convert_to_lora(slot), batch), logits(slot.model, batch), rtol=0.05, atol=0.3)


def test_a_plain_slot_too_and_only_lora(lora_slot, tiny_classifier, padded):
    slot, batch = lora_slot("bert"), padded()
    torch.testing.assert_close(logits(convert_to_lora(slot), batch), logits(slot.model, batch), rtol=1e-4, atol=1e-4)
    assert not isinstance(convert_to_lora(slot).peft_config["default"], MaskedLoraConfig)
    reft = AdaptedModel(get_peft_model(tiny_classifier("bert"), LoReftConfig(r=2, modules_to_save=["classifier"])))
    with pytest.raises(ValueError, match=r"Only LoRA can become LoRA. Received: .*reft_R"):
        convert_to_lora(reft)


@pytest.mark.parametrize(("d_out", "d_in"), [(6, 4), (4, 6), (5, 5)])
def test_factors_above_the_smaller_dimension_become_an_equal_pair(d_out, d_in):
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(9, d_in, generator=generator), torch.randn(d_out, 9, generator=generator)
    small_A, small_B = limit_rank(A, B)
    smaller = min(d_out, d_in)
    assert small_A.shape == (smaller, d_in) and small_B.shape == (d_out, smaller)
    torch.testing.assert_close(small_B.double() @ small_A.double(), B.double() @ A.double(), rtol=1e-6, atol=1e-6)
    assert limit_rank(small_A, small_B)[0] is small_A
