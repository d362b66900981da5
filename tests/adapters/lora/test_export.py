"""An adapted model as ordinary PEFT LoRA: the same logits, and a folder that PEFT reads without our classes."""

import json

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
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
def test_saved_and_loaded_it_has_the_models_logits(
    architecture, rank, density, lora_model, factors, tiny_classifier, padded, tmp_path
):
    adapted, batch = lora_model(architecture, density=density), padded()
    adapted.set_frozen_delta(factors(adapted, rank))
    adapted.set_rows({module: rows + 3 for module, rows in adapted.get_rows().items()})
    kept, expected = adapted.snapshot(), logits(adapted.model, batch)
    model = convert_to_lora(adapted)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert type(LoraConfig.from_pretrained(str(tmp_path))) is LoraConfig
    loaded = PeftModel.from_pretrained(tiny_classifier(architecture), str(tmp_path)).eval()
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert torch.equal(logits(adapted.model, batch), expected), "the model stays as it is"
    assert adapted.snapshot().keys() == kept.keys()


def test_the_folder_is_plain_and_ranks_are_bounded(lora_model, factors, tmp_path):
    adapted = lora_model("bert")
    modules = list(adapted.get_dimensions())
    given = {n: t for n, t in factors(adapted, 3).items() if n in get_frozen_delta_names(modules[0])}
    given |= {n: t for n, t in factors(adapted, 100).items() if n in get_frozen_delta_names(modules[1])}
    adapted.set_frozen_delta(given)
    convert_to_lora(adapted).save_pretrained(str(tmp_path), save_embedding_layers=False)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    ranks = {m: tensors[f"{m}.lora_A.weight"].shape[0] for m in modules}
    assert ranks == dict.fromkeys(modules, 2) | {modules[0]: 5, modules[1]: 32}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and not any("merged" in name or "rows" in name for name in tensors)
    assert config["lora_alpha"] == config["r"] == 32 and config["alpha_pattern"] == config["rank_pattern"]


def test_it_loads_where_peft_does_not_know_our_package(
    lora_model, factors, tiny_classifier, padded, tmp_path, monkeypatch
):
    adapted, batch = lora_model("bert", density=0.5), padded()
    adapted.set_frozen_delta(factors(adapted, 3))
    expected = logits(adapted.model, batch)
    convert_to_lora(adapted).save_pretrained(str(tmp_path), save_embedding_layers=False)
    for table in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING):
        for name in ("MASKED_LORA", "LOREFT"):
            monkeypatch.delitem(table, name)
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert type(config) is LoraConfig and config.r == 5
    loaded = PeftModel.from_pretrained(tiny_classifier("bert"), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded, batch), expected, rtol=1e-4, atol=1e-4)


def test_the_frozen_backbone_is_shared_and_nothing_else(lora_model, factors):
    adapted = lora_model("bert")
    adapted.set_frozen_delta(factors(adapted, 3))
    model = convert_to_lora(adapted)
    blocks = {id(p) for name, p in adapted.model.named_parameters() if "base_layer" in name or "LayerNorm" in name}
    trained = {id(p) for p in adapted.parameters()}
    mine = {id(p) for p in model.parameters()}
    assert blocks <= mine and not mine & trained
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    assert all(tensor.any() for name, tensor in adapted.read().items() if "lora_B" in name)


def test_on_a_bfloat16_backbone(lora_model, factors, padded):
    adapted, batch = lora_model("bert", dtype=torch.bfloat16, density=0.5), padded()
    adapted.set_frozen_delta(factors(adapted, 3, scale=0.05))
    converted = convert_to_lora(adapted)
    torch.testing.assert_close(logits(converted, batch), logits(adapted.model, batch), rtol=0.05, atol=0.3)


def test_plain_lora_converts_too_and_only_lora(lora_model, tiny_classifier, padded):
    adapted, batch = lora_model("bert"), padded()
    converted = convert_to_lora(adapted)
    torch.testing.assert_close(logits(converted, batch), logits(adapted.model, batch), rtol=1e-4, atol=1e-4)
    assert not isinstance(converted.peft_config["default"], MaskedLoraConfig)
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
