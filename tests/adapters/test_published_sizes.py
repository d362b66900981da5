"""Adapters are as large as the papers print: counted on the published shapes, on the meta device, without weights."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, PretrainedConfig, RobertaConfig

from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.backbones import SequenceClassifier

LLAMA_3B, LLAMA_8B, ROBERTA = "LLaMA-3.2-3B", "LLaMA-3-8B", "RoBERTa-large"
SHAPES: dict[str, PretrainedConfig] = {
    LLAMA_3B: LlamaConfig(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    LLAMA_8B: LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    ),
    ROBERTA: RobertaConfig(
        vocab_size=50265, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        max_position_embeddings=514, type_vocab_size=1,
    ),
}  # fmt: skip
LLAMA_8B_LINEAR = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)  # d_in + d_out of q, o; k, v; the MLP


@cache
def without_weights(name: str) -> nn.Module:
    factory = AutoModel if name == ROBERTA else AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(SHAPES[name])
        return SequenceClassifier(model, num_labels=2, pooling="cls") if name == ROBERTA else model


def sizes(name: str, config: Callable) -> dict[str, int]:
    model = copy.deepcopy(without_weights(name))
    adapted = AdaptedModel(get_peft_model(model, config(model)))
    assert all(parameter.is_meta for parameter in adapted.parameters())
    return adapted.count_parameters()


@pytest.mark.parametrize(("name", "millions"), [(LLAMA_3B, 3212.75), (LLAMA_8B, 8030.26)])
def test_the_shapes_are_those_of_the_published_models(name, millions):
    assert round(sum(p.numel() for p in without_weights(name).parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "r", "millions"), [(LLAMA_3B, 32, 11.01), (LLAMA_3B, 8, 2.75), (LLAMA_8B, 8, 4.19)])
def test_fedreft_on_llama(name, r, millions):
    found = sizes(name, lambda model: LoReftConfig(r=r, positions="f7+l7"))
    blocks, width = SHAPES[name].num_hidden_layers, SHAPES[name].hidden_size
    assert found == {"adapter": blocks * 2 * (2 * r * width + r), "head": 0}
    assert round(found["adapter"] / 1e6, 2) == millions


@pytest.mark.parametrize("name", [LLAMA_3B, LLAMA_8B])
def test_tied_interventions_halve_it(name):
    untied, tied = (sizes(name, lambda model, tied=tied: LoReftConfig(r=8, tied=tied)) for tied in (False, True))
    assert 2 * tied["adapter"] == untied["adapter"]


@pytest.mark.parametrize("positions", ["f1", "f3", "f11"])
def test_fedreft_on_roberta_is_one_group_and_the_head_is_counted_apart(positions):
    found = sizes(ROBERTA, lambda model: LoReftConfig(r=1, positions=positions, modules_to_save=["classifier"]))
    assert found == {"adapter": 49_176, "head": 2 * 1024 + 2}


def test_fedit_on_every_linear_map_of_llama():
    found = sizes(LLAMA_3B, lambda model: make_lora_config(model, r=32, alpha=64))
    assert round(found["adapter"] / 1e6, 2) == 48.63 and found["head"] == 0
    assert sizes(LLAMA_8B, lambda model: make_lora_config(model, r=8, alpha=16))["adapter"] == 32 * 8 * LLAMA_8B_LINEAR
