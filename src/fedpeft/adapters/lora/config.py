"""Makes LoRA configurations for the linear layers inside the transformer blocks."""

import re
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters.lora.core import CoreLoraConfig
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
    has_core: bool = False,
) -> LoraConfig:
    """LoRA without dropout on linear layers inside the chosen blocks, with the head of a `SequenceClassifier`.

    `targets`: "all-linear" or the last parts of module names, such as ["query", "value"]. Embeddings, pooler
    and head are never wrapped. The update is alpha / r * B A; `alpha` need not be whole. A `density` below 1 gives
    masked LoRA, which trains that fraction of the rows of B; `has_core` gives LoRA that trains R in B R A. Raises
    `UserError` for a block or target that the model does not have, for a rank above the smaller dimension of a layer
    and for a density outside (0, 1].
    """
    name, blocks = find_blocks(model)
    numbers = resolve_layers(model, layers, len(blocks))
    linear = _find_linear(model, blocks[numbers[0]], targets)
    _check_rank(r, linear)
    block_pattern = "|".join(str(number) for number in numbers)
    target_pattern = "|".join(re.escape(path) for path in linear)
    options: dict[str, Any] = {
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": rf"{re.escape(name)}\.({block_pattern})\.({target_pattern})",
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in linear.values()),  # GPT-2: transposed weights
        "modules_to_save": ["classifier"] if isinstance(model, SequenceClassifier) else None,
    }
    if has_core:
        return CoreLoraConfig(**options)
    return LoraConfig(**options) if density == 1 else MaskedLoraConfig(density=density, **options)


def _check_rank(r: int, linear: dict[str, nn.Module]) -> None:
    """Raises `UserError` for a rank above a layer's smaller dimension: B A has no more, whatever memory they take."""
    dimensions = {path: get_dimensions(module) for path, module in linear.items()}
    path = min(dimensions, key=lambda path: min(dimensions[path]))
    d_in, d_out = dimensions[path]
    if r > min(d_in, d_out):
        raise UserError(
            f"r: the rank cannot exceed the smaller dimension of a layer; {path} is {d_in} x {d_out}, so that r is at "
            f"most {min(d_in, d_out)}. Received: {r}"
        )


def get_dimensions(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer or Conv1D."""
    if isinstance(module, nn.Linear):  # a quantised weight has another shape
        return module.in_features, module.out_features
    d_in, d_out = module.get_parameter("weight").shape
    return d_in, d_out


def _find_linear(model: nn.Module, block: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers inside `block` that `targets` names, by their path in the block."""
    modules = unwrap_block(block).named_modules()
    linear: dict[str, nn.Module] = {path: module for path, module in modules if isinstance(module, nn.Linear | Conv1D)}
    if targets == "all-linear":
        return linear
    available = {path.split(".")[-1] for path in linear}
    if isinstance(targets, str) or not targets or not available.issuperset(targets):
        raise UserError(
            f"targets: {type(model).__name__} has {', '.join(sorted(available))} in a block; give a list of "
            f"those or 'all-linear'. Received: {targets!r}"
        )
    return {path: module for path, module in linear.items() if path.split(".")[-1] in targets}
