"""A slot as an ordinary PEFT LoRA: trainable pair, masked rows and merged delta in one pair per module."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.adapters.names import find_lora_pairs, take_head


def convert_to_lora(slot: AdaptedModel) -> PeftModel:
    """A PEFT LoRA model with the slot's logits and none of our classes: save it with `save_pretrained`, load it with
    `PeftModel.from_pretrained`.

    Scale 1. The rank of a module is the sum of its trainable and merged ranks, at most min(d_in, d_out); where ranks
    differ, PEFT's `rank_pattern` says so. Shares the frozen tensors of the slot, which is left as it is. Exact up to
    rounding [derived]. Raises `ValueError` for a slot without LoRA.
    """
    pairs = {module: bounded(A, B) for module, (A, B) in slot.effective_factors.items()}
    if not pairs:
        raise ValueError(f"Only LoRA becomes LoRA. Received: a slot with tensors like {slot.names[0]}")
    twin = slot.clone()
    twin.set_frozen_delta({})
    old = slot.model.peft_config[slot.model.active_adapter]
    assert isinstance(old, LoraConfig)
    ranks = {module.removeprefix("base_model.model."): len(A) for module, (A, _) in pairs.items()}
    most = max(ranks.values())
    pattern = {} if min(ranks.values()) == most else ranks
    config = LoraConfig(
        r=most,
        lora_alpha=most,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        lora_dropout=0.0,
        target_modules=old.target_modules,
        fan_in_fan_out=old.fan_in_fan_out,
        modules_to_save=old.modules_to_save,
        task_type=old.task_type,
    )
    result = AdaptedModel(get_peft_model(twin.model.unload(), config))
    values = take_head(slot.read())
    for module, a, b in find_lora_pairs(result.names):
        values[a], values[b] = pairs[module]
    result.write(values)
    return result.model


def bounded(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """(R, d_in), (d_out, R) -> the same product at a rank of at most min(d_in, d_out).

    Above that rank, the product beside an identity: exact, where halves of an SVD would round once more.
    """
    d_in, d_out = A.shape[1], len(B)
    if len(A) <= min(d_in, d_out):
        return A, B
    product = (B.double() @ A.double()).to(A.dtype)  # (d_out, d_in)
    identity = torch.eye(min(d_in, d_out), dtype=A.dtype, device=A.device)
    return (identity, product) if d_in <= d_out else (product, identity)
