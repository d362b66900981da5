"""Saved adapters of every form on a tiny classifier, for tests of what reads their folders."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from transformers import AutoModel

from fedpeft.adapters import AdaptedModel, LoReftConfig, get_frozen_delta_names, make_experts_config, make_lora_config
from fedpeft.adapters.export import save_adapter
from fedpeft.backbones import SequenceClassifier

from .tiny_adapted import tiny_config

ALPHA = 3.0


class Saved(NamedTuple):
    """A PEFT folder, and the logits of the adapter in it on the tokens 0 to 11 in two rows."""

    folder: Path
    logits: torch.Tensor


def make_model() -> SequenceClassifier:
    """The model that the adapters are for: two blocks of width 32, three classes; always the same."""
    torch.manual_seed(0)
    backbone = AutoModel.from_config(tiny_config("bert", layers=2)).eval()
    return SequenceClassifier(backbone, num_labels=3, pooling="mean").eval()


def save_adapters(folder: Path) -> dict[str, Saved]:
    """One adapter of each form, away from its start."""
    model = make_model()
    head = {"modules_to_save": ["classifier"]}
    configs = {
        "lora": make_lora_config(model, 2, ALPHA),
        "small": make_lora_config(model, 2, ALPHA, layers=[1], targets=["query"]),
        "masked": make_lora_config(model, 2, ALPHA, density=0.5),
        "merged": make_lora_config(model, 2, ALPHA),
        "reft": LoReftConfig(r=2, **head),
        "noreft": LoReftConfig(r=3, positions="l2", variant="noreft", layers=[1], **head),
        "router": make_experts_config(model, 2, ALPHA, 3, "router"),
        "adaptive": make_experts_config(model, 2, ALPHA, 3, "adaptive", layers=[1]),
        "similarity": make_experts_config(model, 2, ALPHA, 2, "similarity"),
    }
    return {name: _save(name, config, folder / name) for name, config in configs.items()}


def _save(name: str, config: Any, folder: Path) -> Saved:
    adapted = AdaptedModel(get_peft_model(make_model(), config))
    draw = torch.Generator().manual_seed(1)
    adapted.write(
        {key: tensor + 0.3 * torch.randn(tensor.shape, generator=draw) for key, tensor in adapted.read().items()}
    )
    if name == "merged":
        factors = {}
        for module, (d_out, d_in) in list(adapted.get_dimensions().items())[:3]:
            a, b = get_frozen_delta_names(module)
            factors |= {a: torch.randn(3, d_in, generator=draw), b: torch.randn(d_out, 3, generator=draw)}
        adapted.set_frozen_delta(factors)
    save_adapter(adapted, folder, {})
    with torch.no_grad():
        logits = adapted.model(input_ids=torch.arange(12).view(2, 6)).logits
    return Saved(folder / "adapter", logits)


def read_values(folder: Path) -> dict[str, Any]:
    """What the folder's configuration says."""
    return json.loads((folder / "adapter_config.json").read_text())
