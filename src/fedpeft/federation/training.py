"""Local training: what every method does with a client's examples unless its paper needs another loop."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client
from fedpeft.federation.optimiser import compute_rate_factor, make_optimiser, step_optimiser
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

    Trains the named tensors for `local_epochs`, as the training's recipe says: optimiser, schedule, clipping. `lr` is
    the rate of the message's round, `round_`, before the schedule. After every step tensors with a constraint are put
    back where they belong, and which tensors decay is for the kind of adapter to say.
    """

    def __init__(
        self,
        model: AdaptedModel,
        client: Client,
        names: tuple[str, ...],
        lr: float,
        training: TrainingConfig,
        shuffle: torch.Generator,
        round_: int,
    ) -> None:
        self.model, self.client = model, client
        self._training, self._lr, self._round = training, lr, round_
        self._optimiser = make_optimiser(model, names, lr, training)
        batches = math.ceil(len(client.splits["train"]) / training.batch_size)
        self._steps, self._next_step = training.local_epochs * batches, 0
        self.batches = self._all_batches(training, shuffle)
        self._last_epoch = False
        self._losses: list[Tensor] = []  # of the last epoch; on the device: no sync per step
        self._labels = 0

    def step(self, batch: Batch, loss: Tensor) -> None:
        """Ends a step whose gradients are in the model; `loss` () is summed over the batch's labels."""
        factor = compute_rate_factor(self._training, self._round, self._next_step, self._steps)
        step_optimiser(self._optimiser, self._lr * factor, self._training.max_grad_norm)
        self._next_step += 1
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
