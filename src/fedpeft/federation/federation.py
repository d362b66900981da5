"""The round: select, send, train, screen, aggregate. Knows no paper and no engine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fedpeft.errors import NoQuorum, UserError
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, wire_size
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.screen import screen
from fedpeft.federation.training_config import TrainingConfig

if TYPE_CHECKING:  # an engine runs what is in this package; here it is known by its contract only
    from fedpeft.engines.base import Engine, ModelChoice, Outcome, Scores


@dataclass
class RoundRecord:
    """What one round did, by client id. Bytes are those of the encoded messages; seconds are wall-clock."""

    round: int
    bytes_down: dict[str, int]
    bytes_up: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    train_seconds: float = 0.0
    client_seconds: dict[str, float] = field(default_factory=dict)
    aggregate_seconds: float = 0.0


class Federation:
    """A method, its server state and the clients that an engine runs.

    `specs` are the clients that train; `audience` those that are evaluated (the same, except for a pooled method).
    """

    def __init__(
        self,
        method: Method[Any],
        engine: "Engine",
        state: Any,
        specs: Sequence[ClientSpec],
        evaluation_clients: Sequence[ClientSpec],
        training: TrainingConfig,
        seed: int,
    ) -> None:
        self.method, self.engine, self.state = method, engine, state
        self.specs, self.evaluation_clients = (
            sorted(specs, key=lambda s: s.id),
            sorted(evaluation_clients, key=lambda s: s.id),
        )
        self.training, self.seed = training, seed
        self.round = 0  # rounds completed

    def select(self, round_: int) -> list[ClientSpec]:
        """The clients of a round: `participation` of them, drawn by (seed, round), sorted by id."""
        count = max(1, math.ceil(self.training.participation * len(self.specs) - 1e-9))
        drawn = torch.randperm(len(self.specs), generator=generator(self.seed, "select", round_))[:count]
        return [self.specs[i] for i in sorted(drawn.tolist())]

    def step(self, finished: "Callable[[Outcome], None]" = lambda outcome: None) -> RoundRecord:
        """Runs one round and moves the state on. `finished` is called as each client ends.

        Raises NoQuorum when fewer usable replies than the quorum come back; the state is then unchanged.
        """
        round_ = self.round + 1
        selected = self.select(round_)
        messages = [Message(spec.id, round_, self.method.send(self.state, spec)) for spec in selected]
        record = RoundRecord(round_, {m.client: wire_size(m) for m in messages})
        began = time.perf_counter()
        replies = self._collect(messages, record, finished)
        record.train_seconds = time.perf_counter() - began
        usable = self._screen(replies, messages, record)
        try:
            self.state = self.method.aggregate(self.state, usable)
        except ValueError as error:
            raise UserError(
                f"round {round_}: replies cannot be aggregated: {error} The last checkpoint is intact"
            ) from error
        record.aggregate_seconds = time.perf_counter() - began - record.train_seconds
        self.round = round_
        return record

    def _collect(
        self, messages: list[Message], record: RoundRecord, finished: "Callable[[Outcome], None]"
    ) -> list[Reply]:
        replies = []
        for outcome in self.engine.train(messages, self.training.deadline_seconds):
            record.client_seconds[outcome.client] = outcome.seconds
            if outcome.reply is None:
                record.quarantined[outcome.client] = outcome.failure or "no reply"
            elif (outcome.reply.client, outcome.reply.round) != (outcome.client, record.round):
                said = f"{outcome.reply.client!r}, round {outcome.reply.round}"
                record.quarantined[outcome.client] = f"its reply says it is of {said}"
            else:
                replies.append(outcome.reply)
                record.bytes_up[outcome.client] = wire_size(outcome.reply)
                record.scalars[outcome.client] = dict(outcome.reply.scalars)
            finished(outcome)
        return sorted(replies, key=lambda reply: reply.client)

    def _screen(self, replies: list[Reply], messages: list[Message], record: RoundRecord) -> list[Reply]:
        sent = {message.client: message for message in messages}
        usable, quarantined = screen(
            replies,
            {spec.id: spec.examples for spec in self.specs},
            lambda reply: self.method.reply_layout(self.state, sent[reply.client]),
            lambda reply: self.method.rejection_reason(self.state, reply),
            lambda reply: self.method.update_baseline(self.state, sent[reply.client], reply),
            self.training.norm_limit,
        )
        record.quarantined |= quarantined
        needed = math.ceil(self.training.quorum * len(messages) - 1e-9)
        if len(usable) < needed:
            reasons = "; ".join(f"{client}: {why}" for client, why in sorted(record.quarantined.items()))
            kept = f"what round {self.round} left is kept" if self.round else "a lower learning rate may help"
            raise NoQuorum(
                f"round {record.round}: {len(usable)} of {len(messages)} clients replied usably, "
                f"the quorum is {needed} ({reasons}); {kept}"
            )
        return usable

    def evaluate(self, split: str, which: "ModelChoice") -> "dict[str, Scores]":
        """Scores of every client in the audience, by id, on one split of its own rows."""
        return self.engine.evaluate(self.deployment_messages(), split, which)

    def cross_evaluate(self, split: str) -> "dict[str, dict[str, Scores]]":
        """Every client's personal model on every client's rows: by whose model, then by whose rows."""
        return self.engine.cross_evaluate(self.deployment_messages(), split)

    def deployment_messages(self) -> list[Message]:
        """What every client would be sent now, to deploy its personal model."""
        return [
            Message(spec.id, self.round + 1, self.method.send(self.state, spec)) for spec in self.evaluation_clients
        ]
