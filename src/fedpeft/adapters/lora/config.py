"""A LoRA configuration for the linear maps inside the transformer blocks."""

import re
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters.lora.masked import MaskedLoraConfig
from fedpeft.backbones.blocks import find_blocks, resolve_layers, unwrap_block
from fedpeft.backbones.heads import SequenceClassifier
from fedpeft.errors import UserError


def make_lora_config(
    model: nn.Module,
    r: int,
    alpha: float,
    layers: str | Sequence[int] = "all",
    targets: str | Sequence[str] = "all-linear",
    density: float = 1.0,
) -> LoraConfig:
    """LoRA without dropout on linear maps inside the chosen blocks; a `SequenceClassifier`'s head is trained
    too.

    `targets`: "all-linear" or the last parts of module names, such as ["query", "value"]. Embeddings, pooler
    and head are never wrapped. The update is alpha / r * B A; `alpha` need not be whole. A `density` below 1 gives
    masked LoRA, which trains that share of the rows of B. Raises `UserError` for a block or target that the model
    does not have and for a density outside (0, 1].
    """
    name, blocks = find_blocks(model)
    chosen = resolve_layers(model, layers, len(blocks))
    linear = [
        (inner, module)
        for inner, module in unwrap_block(blocks[chosen[0]]).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    if targets != "all-linear":
        ends = {inner.split(".")[-1] for inner, _ in linear}
        missing = [target for target in targets if target not in ends]
        if isinstance(targets, str) or not targets or missing:
            raise UserError(
                f"targets: {type(model).__name__} has {', '.join(sorted(ends))} in a block; give a list of "
                f"those or 'all-linear'. Received: {targets!r}"
            )
        linear = [(inner, module) for inner, module in linear if inner.split(".")[-1] in targets]
    numbers = "|".join(str(i) for i in chosen)
    inners = "|".join(re.escape(inner) for inner, _ in linear)
    options: dict[str, Any] = {
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": rf"{re.escape(name)}\.({numbers})\.({inners})",
        "fan_in_fan_out": any(isinstance(module, Conv1D) for _, module in linear),  # GPT-2 stores weights transposed
        "modules_to_save": ["classifier"] if isinstance(model, SequenceClassifier) else None,
    }
    return LoraConfig(**options) if density == 1 else MaskedLoraConfig(density=density, **options)
