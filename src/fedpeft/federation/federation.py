"""The round: select, send, train, screen, aggregate. Knows no paper and no engine."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fedpeft.errors import NoQuorum, UserError, printable
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.influence import is_finite
from fedpeft.federation.message import Message, Reply, Scalar, wire_size
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.reasons import LIMIT, describe_error, group_reasons
from fedpeft.federation.schema import find_fault
from fedpeft.federation.screen import screen
from fedpeft.federation.state_tree import iterate_tensors
from fedpeft.federation.training_config import TrainingConfig

if TYPE_CHECKING:  # an engine runs what is in this package; here it is known by its contract only
    from fedpeft.engines.base import Engine, ModelChoice, Outcome, Scores

log = logging.getLogger(__name__)


@dataclass
class RoundRecord:
    """What one round did, by client id. Bytes are those of the encoded messages; seconds are wall-clock."""

    round: int
    bytes_down: dict[str, int]
    bytes_up: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)  # why a client did not count, failures too
    failed: set[str] = field(default_factory=set)  # those of them from which no reply came
    clipped: dict[str, float] = field(default_factory=dict)  # the fraction left of an update that went too far
    train_seconds: float = 0.0
    client_seconds: dict[str, float] = field(default_factory=dict)
    aggregate_seconds: float = 0.0


class Federation:
    """A method, its server state and the clients that an engine runs.

    `specs` are the clients that train; `evaluation_clients` those that are scored (the same, but for a pooled method).
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
        self.state = self._aggregate(usable, record)
        record.aggregate_seconds = time.perf_counter() - began - record.train_seconds
        self.round = round_
        return record

    def _collect(
        self, messages: list[Message], record: RoundRecord, finished: "Callable[[Outcome], None]"
    ) -> list[Reply]:
        """The replies that are messages of this round, one a client, sorted by client; a reason for every other."""
        replies: dict[str, Reply] = {}
        heard: set[str] = set()
        for outcome in self.engine.train(messages, self.training.deadline_seconds):
            if outcome.client not in record.bytes_down:
                log.error("round %d: an outcome of %.100r, which was sent nothing", record.round, outcome.client)
                continue
            reason = "more than one reply came from it" if outcome.client in heard else _find_unusable(outcome, record)
            heard.add(outcome.client)
            if reason is None and outcome.reply is not None:
                replies[outcome.client] = outcome.reply
            else:
                replies.pop(outcome.client, None)
                record.quarantined[outcome.client] = printable(reason or "no reply", LIMIT)
            record.client_seconds[outcome.client] = outcome.seconds
            finished(outcome)
        for client in record.bytes_down.keys() - heard:
            record.failed.add(client)
            record.quarantined[client] = "no reply came from it"
        record.bytes_up = {client: wire_size(reply) for client, reply in replies.items()}
        return [replies[client] for client in sorted(replies)]

    def _screen(self, replies: list[Reply], messages: list[Message], record: RoundRecord) -> list[Reply]:
        screened = screen(
            self.method,
            self.state,
            {message.client: message for message in messages},
            replies,
            {spec.id: spec.examples for spec in self.specs},
            self.training.norm_limit,
        )
        record.quarantined |= screened.quarantined
        record.clipped = screened.clipped
        # What a reply that is left out says of itself may be anything, so only its own reason is kept.
        record.scalars = {reply.client: dict(reply.scalars) for reply in screened.usable}
        return screened.usable

    def _require_quorum(self, usable: list[Reply], record: RoundRecord) -> None:
        count = len(record.bytes_down)
        needed = math.ceil(self.training.quorum * count - 1e-9)
        if len(usable) < needed:
            hint = f"; what round {self.round} left is kept" if self.round else ""
            raise NoQuorum(
                f"round {record.round}: {len(usable)} of {count} clients replied usably, "
                f"the quorum is {needed}{hint} ({group_reasons(record.quarantined)})"
            )

    def _aggregate(self, usable: list[Reply], record: RoundRecord) -> Any:
        """The next state. A reply with which the method can make no finite one is left out."""
        self._require_quorum(usable, record)
        state = self._try_aggregate(usable)
        while isinstance(state, Exception):
            blamed = self._blame(usable, state)
            if not blamed:  # it is no one reply's fault: the method's own, or several clients' together
                remains = f"what round {self.round} left is kept" if self.round else "no round was completed"
                raise UserError(
                    f"round {record.round}: the method cannot aggregate its {len(usable)} replies "
                    f"({describe_error(state)}); {remains}"
                ) from state
            record.quarantined |= blamed
            usable = [reply for reply in usable if reply.client not in blamed]
            self._require_quorum(usable, record)
            state = self._try_aggregate(usable)
        return state

    def _try_aggregate(self, replies: list[Reply]) -> Any:
        """The state after these replies, or the exception with which it could not be made."""
        try:
            state = self.method.aggregate(self.state, replies)
        except Exception as error:  # the boundary between a method and the run: `_blame` finds out whose fault it is
            log.exception("round %d: aggregation failed", self.round + 1)
            return error
        if not is_finite(iterate_tensors(state)):
            return ValueError("the aggregate is not finite")
        return state

    def _blame(self, replies: list[Reply], error: Exception) -> dict[str, str]:
        """The reasons to leave out those clients whose replies fail alone, or one without which the others succeed."""
        single_states = {reply.client: self._try_aggregate([reply]) for reply in replies}
        failing = {client: state for client, state in single_states.items() if isinstance(state, Exception)}
        if 0 < len(failing) < len(replies):
            return {client: f"its reply cannot be aggregated: {describe_error(e)}" for client, e in failing.items()}
        for reply in replies if not failing and len(replies) > 2 else ():
            others = [other for other in replies if other is not reply]
            if not isinstance(self._try_aggregate(others), Exception):
                return {reply.client: f"the others' replies cannot be aggregated with it: {describe_error(error)}"}
        return {}

    def evaluate(self, split: str, which: "ModelChoice") -> "dict[str, Scores]":
        """Scores of every client that is evaluated, by id, on one split of its own rows."""
        return self.engine.evaluate(self.deployment_messages(), split, which)

    def cross_evaluate(self, split: str) -> "dict[str, dict[str, Scores]]":
        """Every client's personal model on every client's rows: by whose model, then by whose rows."""
        return self.engine.cross_evaluate(self.deployment_messages(), split)

    def deployment_messages(self) -> list[Message]:
        """What every client would be sent now, to deploy its personal model."""
        return [
            Message(spec.id, self.round + 1, self.method.send(self.state, spec)) for spec in self.evaluation_clients
        ]


def _find_unusable(outcome: "Outcome", record: RoundRecord) -> str | None:
    """Why an outcome holds no message of this round, or None; `record` notes that it failed."""
    reply = outcome.reply
    if reply is None:
        record.failed.add(outcome.client)
        return outcome.failure or "no reply"
    if not isinstance(reply, Message):
        return f"its reply is a {type(reply).__name__}"
    fault = find_fault(reply.client, reply.round, reply.tensors, reply.scalars)
    if fault is not None:
        return f"its reply is no message: {fault}"
    if (reply.client, reply.round) != (outcome.client, record.round):
        return f"its reply says it is of {reply.client!r}, round {reply.round}"
    return None
