"""A tiny decoder in float64 whose adapter is far from its start, and three encoded examples for it."""

import pytest
import torch
from helpers.decoding import EXAMPLES
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.tasks.prompts import encode_prompts


@pytest.fixture(scope="session")
def tokenizer(tiny_decoder):
    return AutoTokenizer.from_pretrained(tiny_decoder)


@pytest.fixture(params=["lora", "f2+l1", "all"])
def decoder(request, tiny_decoder):
    """With LoRA, or with LoReFT at the positions named."""
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder, dtype=torch.float64)
    config = make_lora_config(model, 2, 4.0) if request.param == "lora" else LoReftConfig(r=2, positions=request.param)
    adapted = AdaptedModel(get_peft_model(model, config, autocast_adapter_dtype=False))
    draw = torch.Generator().manual_seed(3)
    adapted.write({n: t + torch.randn(t.shape, generator=draw, dtype=t.dtype) for n, t in adapted.read().items()})
    return adapted


@pytest.fixture
def encoded(tokenizer):
    return encode_prompts(EXAMPLES, tokenizer, 32, lambda example: example.text + " :")
