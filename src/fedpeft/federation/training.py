"""Local training: what every method does with a client's examples unless its paper needs another loop."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.tasks.encode import Batch, count_labels
from fedpeft.tasks.task import Task


def train_locally(
    trainer: "LocalTrainer", penalty: Callable[[], Tensor] | None = None, observe: Callable[[], None] | None = None
) -> float:
    """Trains locally for `local_epochs`; returns the last epoch's mean loss.

    `penalty` is added to the loss of every step (not to the loss returned); `observe` is called when a step's
    gradients are complete, before the optimiser moves.
    """
    client = trainer.client
    for batch in trainer.batches:
        rows = client.spec.resources.micro_batch or len(batch["input_ids"])
        loss = _add_gradients(trainer.model, client.task, batch, rows)
        if penalty is not None:
            penalty().backward()
        if observe is not None:
            observe()
        trainer.step(batch, loss)
    return trainer.loss()


class LocalTrainer:
    """One client's local training, a step at a time: for a loop over its batches, or over those of several clients.

    AdamW over the named tensors for `local_epochs`. After every step tensors with a constraint are put back where they
    belong, and which tensors decay is for the kind of adapter to say.
    """

    def __init__(
        self,
        model: AdaptedModel,
        client: Client,
        names: tuple[str, ...],
        lr: float,
        training: TrainingConfig,
        shuffle: torch.Generator,
    ) -> None:
        self.model, self.client = model, client
        self._optimiser = _make_optimiser(model, names, lr, training.weight_decay)
        self.batches = self._all_batches(training, shuffle)
        self._last_epoch = False
        self._losses: list[Tensor] = []  # of the last epoch; on the device: no sync per step
        self._labels = 0

    def step(self, batch: Batch, loss: Tensor) -> None:
        """Ends a step whose gradients are in the model; `loss` () is summed over the batch's labels."""
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.model.retract_()
        if self._last_epoch:
            self._losses.append(loss)
            self._labels += count_labels(batch)

    def loss(self) -> float:
        """Mean over the labels of the last epoch."""
        return float(torch.stack(self._losses).sum()) / self._labels

    def _all_batches(self, training: TrainingConfig, shuffle: torch.Generator) -> Iterator[Batch]:
        for epoch in range(training.local_epochs):
            self._last_epoch = epoch == training.local_epochs - 1
            yield from self.client.batches("train", training.batch_size, shuffle)


def _make_optimiser(model: AdaptedModel, names: tuple[str, ...], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the named tensors, which alone require gradients from now on; none is left over."""
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        parameter.requires_grad_(name in names)  # what is not trained costs no gradient
        parameter.grad = None  # a client that failed in the middle of a step may have left some
    parameters = dict(zip(names, model.parameters(names), strict=True))
    decayed = [p for name, p in parameters.items() if model.kind.is_decayed(name)]
    others = [p for name, p in parameters.items() if not model.kind.is_decayed(name)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, weight_decay=weight_decay)


def _add_gradients(model: AdaptedModel, task: Task, batch: Batch, micro_batch: int) -> Tensor:
    """Adds the gradients of the batch's mean loss per label, a few rows at a time; returns the loss summed, ()."""
    count = count_labels(batch)
    total: Tensor | None = None
    for part in _split_batch(batch, micro_batch):
        loss = task.losses(model, part).sum()
        (loss / count).backward()
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def _split_batch(batch: Batch, micro_batch: int) -> Iterator[Batch]:
    size = len(batch["input_ids"])
    if size <= micro_batch:
        yield batch
        return
    for start in range(0, size, micro_batch):
        yield {name: tensor[start : start + micro_batch] for name, tensor in batch.items()}
