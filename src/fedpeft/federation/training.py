"""Local training: the one loop that every method shares unless its paper needs another."""

from typing import Any

import torch

from fedpeft.adapters import Slot
from fedpeft.federation.client import Client, forward
from fedpeft.federation.settings import TrainingConfig


def train_locally(
    model: Slot,
    client: Client,
    names: tuple[str, ...],
    lr: float,
    settings: TrainingConfig,
    shuffle: torch.Generator,
) -> float:
    """AdamW over the named tensors for `local_epochs`; returns the mean training loss of the last epoch.

    LoReFT's R is put back on the manifold after every step and never decayed (facts: a decayed or averaged
    parametrisation loses orthonormality).
    """
    chosen = dict(zip(names, model.parameters(names), strict=True))
    orthonormal = [p for name, p in chosen.items() if name.endswith("reft_R")]
    others = [p for name, p in chosen.items() if not name.endswith("reft_R")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": orthonormal, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=settings.weight_decay)
    losses: list[torch.Tensor] = []  # stay on the device: no sync per step
    rows = 0
    for epoch in range(settings.local_epochs):
        for batch in client.batches("train", settings.batch_size, shuffle):
            loss, _ = forward(model, batch)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            model.retract_()
            if epoch == settings.local_epochs - 1:
                losses.append(loss.detach() * len(batch["labels"]))
                rows += len(batch["labels"])
    return float(torch.stack(losses).sum()) / rows
