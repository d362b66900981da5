"""Converts an adapted model into ordinary PEFT LoRA: trained pair, masked rows or core, frozen delta in one pair."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.adapters.names import find_lora_pairs, take_head


def convert_to_lora(model: AdaptedModel) -> PeftModel:
    """A PEFT LoRA model with the same logits and none of our classes, for `save_pretrained` and `from_pretrained`.

    Its scale is 1. The rank of a module is the sum of the ranks of its trained pair and frozen delta, at most
    min(d_in, d_out); where ranks differ, PEFT's `rank_pattern` holds them. It shares the frozen tensors of `model`,
    which stays as it is. Exact up to rounding [derived]. Raises `ValueError` for a model without LoRA.
    """
    pairs = {module: limit_rank(A, B) for module, (A, B) in model.effective_factors.items()}
    if not pairs:
        raise ValueError(f"Only LoRA can become LoRA. Received: a model that trains tensors like {model.names[0]}")
    copied = model.clone()
    copied.set_frozen_delta({})
    old = model.model.peft_config[model.model.active_adapter]
    assert isinstance(old, LoraConfig)
    ranks = {module.removeprefix("base_model.model."): len(A) for module, (A, _) in pairs.items()}
    largest = max(ranks.values())
    pattern = {} if min(ranks.values()) == largest else ranks
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        lora_dropout=0.0,
        target_modules=old.target_modules,
        fan_in_fan_out=old.fan_in_fan_out,
        modules_to_save=old.modules_to_save,
        task_type=old.task_type,
    )
    converted = AdaptedModel(get_peft_model(copied.model.unload(), config))
    tensors = take_head(model.read())
    for module, a, b in find_lora_pairs(converted.names):
        tensors[a], tensors[b] = pairs[module]
    converted.write(tensors)
    return converted.model


def limit_rank(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Factors with the same product B A and a rank of at most min(d_in, d_out), from (R, d_in) and (d_out, R).

    Above that rank they are the product and an identity: exact, where the halves of an SVD would round once more.
    """
    d_in, d_out = A.shape[1], len(B)
    if len(A) <= min(d_in, d_out):
        return A, B
    product = (B.double() @ A.double()).to(A.dtype)  # (d_out, d_in)
    identity = torch.eye(min(d_in, d_out), dtype=A.dtype, device=A.device)
    return (identity, product) if d_in <= d_out else (product, identity)
