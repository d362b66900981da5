"""The batched engine: several clients train in one forward and one backward through the shared backbone. Ours [choice].

Made for accelerators and for batches too small to fill a processor; where one client's batch keeps it busy, nothing is
gained. Every client keeps its own batches in their order, its own optimiser and its own number of steps, so the results
are the local engine's but for rounding: products are summed in another order.

Clients train alone, as in the local engine, where the method writes its own training loop or adds a penalty to the
loss, and where a client was given a micro-batch or activation checkpointing: both are there to take less memory.
The prefix cache serves those and evaluation, not the joint pass.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedpeft.acceleration.stacked_clients import StackedClients, find_unstackable
from fedpeft.adapters import AdaptedModel
from fedpeft.engines.base import EngineSetup, Outcome, make_late_outcome, make_overdue_outcome
from fedpeft.engines.local import LocalEngine, Trained, has_diverged
from fedpeft.engines.workers import Abandoned, RoundOver, stop_if_abandoned
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Scalar
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.training import LocalTrainer
from fedpeft.tasks.encode import IGNORE, Batch, Padding, count_labels

log = logging.getLogger(__name__)


class BatchedEngine(LocalEngine):
    """Trains up to `max_clients` clients in one pass, each worker with a stack of its own. Evaluates as the local one.

    Where the accelerator's memory does not hold so many, that pass is taken again with half as many, and so are all
    later ones: `max_clients` sinks to what fits. A run resumed after that groups its clients otherwise for a round and
    rounds otherwise.
    """

    def __init__(self, *args: Any, max_clients: int = 8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_clients = max_clients

    @classmethod
    def make(cls, setup: EngineSetup) -> "BatchedEngine":
        engine = super().make(setup)
        assert isinstance(engine, cls)
        engine.max_clients = setup.max_clients
        return engine

    def train(
        self, messages: Sequence[Message], deadline: float | None = None, round_deadline: float | None = None
    ) -> Iterator[Outcome]:
        """One local round per message, longest clients first; yields outcomes as groups of clients finish.

        A group has its clients' seconds together. Of one that takes longer each client trains once more, alone.
        """
        overdue: list[Message] = []
        began, groups = time.monotonic(), list(self._groups(messages))
        for ended in self._workers.run(self._train_group, groups, deadline, len, round_deadline):
            if ended.error is None:
                yield from map(self._keep, ended.result or [])
            elif isinstance(ended.error, RoundOver):
                yield from (make_late_outcome(message.client, ended.seconds) for message in ended.item)
            elif deadline is None or not isinstance(ended.error, TimeoutError):
                raise ended.error
            elif len(ended.item) > 1:
                log.warning("clients %s hang together: each trains alone", ", ".join(m.client for m in ended.item))
                overdue += ended.item
            else:
                yield make_overdue_outcome(ended.item[0].client, deadline, ended.seconds)
        if overdue:
            left = None if round_deadline is None else max(0.0, round_deadline - (time.monotonic() - began))
            yield from super().train(overdue, deadline, left)

    def reason_to_train_alone(self, client: Client) -> str | None:
        """Why this client cannot train in one pass with others, as far as that is known before its round."""
        if type(self.method).train is not Method.train:
            return "the method writes its own training loop"
        if find_unstackable(self.templates[client.spec.id]) is not None:
            return "its kind of adapter has no stacked form"
        if client.spec.resources.micro_batch is not None:
            return "it was given a micro-batch"
        return "it was given activation checkpointing" if client.spec.resources.checkpointing else None

    def _groups(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """Clients of like length are together, so that few rounds end with one client that goes on."""
        by_kind: dict[tuple[object, Padding], list[Message]] = {}
        for message in sorted(messages, key=lambda m: -self.by_id[m.client].spec.examples):
            client = self.by_id[message.client]
            reason = self.reason_to_train_alone(client)
            if reason is None:
                by_kind.setdefault((client.task, client.padding), []).append(message)
            else:
                log.info("client %s trains alone: %s", message.client, reason)
                yield [message]
        for alike in by_kind.values():
            yield from (alike[start : start + self.max_clients] for start in range(0, len(alike), self.max_clients))

    def _train_group(self, group: Sequence[Message]) -> list[Trained]:
        if len(group) == 1:
            return [self._train_one(group[0])]
        size = self.max_clients
        if len(group) <= size:
            try:
                return self._train_together(group)
            except Abandoned:
                raise
            except torch.OutOfMemoryError:
                size = len(group) // 2
                if len(group) == self.max_clients:  # fewer may hold the longest texts: that says little of others
                    self.max_clients = size
                log.warning("memory does not hold these %d clients in one pass: %d at once", len(group), size)
            except BaseException as error:  # of one of them, but of which? Alone each answers for itself
                size, names = 1, ", ".join(message.client for message in group)
                log.warning("clients %s train one by one: %s: %s", names, type(error).__name__, error)
        parts = [group[start : start + size] for start in range(0, len(group), size)]
        return [trained for part in parts for trained in self._train_group(part)]

    def _train_together(self, group: Sequence[Message]) -> list[Trained]:
        began = time.perf_counter()
        stack, indices = self._stack(group)
        members, separate = [], []
        for message, index in zip(group, indices, strict=True):
            client, model = self._copy_client(message.client), stack.models[index]
            with self._accelerate(model, message.client):  # `receive` may look at scores
                reported = self.method.receive(model, message, client)
            if self.method.penalty(model, message, client) is None:
                names, lr = self.method.trainable_names(model, message), self.method.lr(message, self.training)
                shuffle = generator(self.seed, "shuffle", message.round, message.client)
                trainer = LocalTrainer(model, client, names, lr, self.training, shuffle, message.round)
                members.append(Member(message, index, reported, trainer))
            else:
                log.info("client %s trains alone: the method adds a penalty to its loss", message.client)
                separate.append(message)
        train_together(stack, members)
        results = []
        for member in members:
            trainer, client = member.trainer, member.trainer.client
            reply = self.method.finish(trainer.model, member.message, client, trainer.loss(), member.reported)
            if has_diverged(client.local):
                separate.append(member.message)  # diverges there too, and the local engine's code says so
                continue
            seconds = (time.perf_counter() - began) / len(group)  # of one pass each has its part
            results.append(Trained(Outcome(client.spec.id, reply, None, seconds), self._get_kept(client)))
        return results + [self._train_one(message) for message in separate]

    def _stack(self, group: Sequence[Message]) -> tuple[StackedClients, list[int]]:
        """This worker's stack, and which of its models each client takes; grows with unlike templates met together."""
        stacked: list[AdaptedModel] = self._own.__dict__.setdefault("stacked", [])  # the template of each model
        indices: list[int] = []
        for message in group:
            template = self.templates[message.client]
            free = [i for i, other in enumerate(stacked) if other is template and i not in indices]
            if not free:
                stacked.append(template)
            indices.append(free[0] if free else len(stacked) - 1)
        stack: StackedClients | None = self._own.__dict__.get("stack")
        if stack is None or len(stack.models) != len(stacked):
            models = stack.models if stack is not None else ()
            models = (*models, *map(self._clone, stacked[len(models) :]))
            stack = self._own.__dict__["stack"] = StackedClients(models)
            stack.backbone.register_forward_pre_hook(lambda *_: stop_if_abandoned())
        return stack, indices


@dataclass(frozen=True)
class Member:
    """One client of a group: which of the stack's models is its own, and what `receive` reported."""

    message: Message
    index: int
    reported: dict[str, Scalar]
    trainer: LocalTrainer


def train_together(stack: StackedClients, members: Sequence[Member]) -> None:
    """Trains every member to its end, one forward and one backward for all that still have a batch.

    The gradient is that of the sum of the clients' mean losses, and so each client's own.
    """
    while True:
        steps = [(m, batch) for m in members if (batch := next(m.trainer.batches, None)) is not None]
        if not steps:
            return
        client = steps[0][0].trainer.client  # all have its task and its padding
        sizes = [len(batch["input_ids"]) for _, batch in steps]
        model = stack.assign_rows([m.index for (m, _), size in zip(steps, sizes, strict=True) for _ in range(size)])
        losses = client.task.losses(model, concat_batches([batch for _, batch in steps], client.padding))  # (rows,)
        sums = [part.sum() for part in losses.split(sizes)]
        means = [loss / count_labels(batch) for loss, (_, batch) in zip(sums, steps, strict=True)]
        torch.stack(means).sum().backward()
        for loss, (member, batch) in zip(sums, steps, strict=True):
            member.trainer.step(batch, loss.detach())


def concat_batches(batches: Sequence[Batch], padding: Padding) -> Batch:
    """One batch of all rows in their order, padded to the longest: what `fedpeft.tasks.encode` makes, but `rows`."""
    fill = {"input_ids": padding.id, "attention_mask": 0, "labels": IGNORE}
    length = max(batch["input_ids"].shape[1] for batch in batches)
    return {name: torch.cat([_pad(b[name], length, padding.side, fill[name]) for b in batches]) for name in fill}


def _pad(tensor: Tensor, length: int, side: str, value: int) -> Tensor:
    """(batch, any length) -> (batch, length); labels of whole rows (batch,) stay."""
    if tensor.dim() == 1 or tensor.shape[1] == length:
        return tensor
    missing = length - tensor.shape[1]
    return nn.functional.pad(tensor, (missing, 0) if side == "left" else (0, missing), value=value)
