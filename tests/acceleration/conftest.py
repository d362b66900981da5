"""Adapted models of every kind and architecture for the tests of accelerations."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig


@pytest.fixture
def build(lora_model, factors, tiny_classifier, stir):
    """build("reft", "bert", [1, 2]) -> an adapted model away from its start, in `dtype` below its float32 head."""

    def make(kind, architecture, layers="all", dtype=torch.float64):
        if kind == "reft":
            plain = tiny_classifier(architecture)
            plain.backbone.to(dtype)
            config = LoReftConfig(r=3, layers=layers, positions="f2+l3", modules_to_save=["classifier"])
            model = get_peft_model(plain, config)
            stir(model)
            return AdaptedModel(model)
        masked = kind == "masked"
        adapted = lora_model(architecture, layers=layers, dtype=dtype, density=0.3 if masked else 1.0)
        adapted.set_frozen_delta(factors(adapted, 3) if masked else {})
        return adapted

    return make
