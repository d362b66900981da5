"""The optimiser of local training: AdamW or SGD, its learning rate step by step, and clipped gradients."""

import math
from typing import Any

import torch
from torch import nn

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.training_config import TrainingConfig


def make_optimiser(
    model: AdaptedModel, names: tuple[str, ...], lr: float, training: TrainingConfig
) -> torch.optim.Optimizer:
    """The optimiser of the named tensors, which alone require gradients from now on; none is left over."""
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        parameter.requires_grad_(name in names)  # what is not trained costs no gradient
        parameter.grad = None  # a client that failed in the middle of a step may have left some
    parameters = dict(zip(names, model.parameters(names), strict=True))
    decayed = [p for name, p in parameters.items() if model.kind.is_decayed(name)]
    others = [p for name, p in parameters.items() if not model.kind.is_decayed(name)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=training.momentum, weight_decay=training.weight_decay)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=training.weight_decay)


def step_optimiser(optimiser: torch.optim.Optimizer, lr: float, max_grad_norm: float | None) -> None:
    """One step at a learning rate, with the gradients scaled down together where their norm is above the limit."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], max_grad_norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def compute_rate_factor(training: TrainingConfig, round_: int, step: int, steps: int) -> float:
    """The factor on the learning rate in a step, counted from 0, of a round with so many steps, from the schedule.

    Over the run, a client's steps of all rounds count as if it took part in each. Warm-up rises linearly over its
    fraction of the steps; the first of them is above zero [choice], as the last one of a decay is. After the last round
    the rate stays what it was in its last step.
    """
    if training.schedule_span == "round":
        position, total = step, steps
    else:
        total = training.rounds * steps
        position = min((round_ - 1) * steps + step, total - 1)
    warmup = math.ceil(training.warmup_ratio * total - 1e-9)
    if position < warmup:
        return (position + 1) / (warmup + 1)
    progress = (position - warmup) / max(1, total - warmup)
    if training.schedule == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if training.schedule == "cosine" else 1.0
