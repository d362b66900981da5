"""The round: select, send, train, screen, aggregate. Knows no paper and no engine."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedpeft.errors import NoQuorum, UserError
from fedpeft.federation.blame import find_blame, try_aggregate
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.collect import collect_replies
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.message import Message, Reply, wire_size
from fedpeft.federation.method import Method
from fedpeft.federation.policy import (
    Standing,
    count_needed,
    count_quorum,
    draw_clients,
    keep_needed,
    update_standings,
)
from fedpeft.federation.reasons import describe_error, group_reasons
from fedpeft.federation.record import RoundRecord
from fedpeft.federation.screen import screen
from fedpeft.federation.training_config import TrainingConfig

if TYPE_CHECKING:  # an engine runs what is in this package; here it is known by its contract only
    from fedpeft.engines.base import Engine, Outcome, Scores


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
        self.standings: dict[str, Standing] = {}  # of clients that failed lately

    def select(self, round_: int) -> list[ClientSpec]:
        """The clients that a round asks, sorted by id: see `policy.draw_clients`."""
        drawn = set(self._draw(round_))
        return [spec for spec in self.specs if spec.id in drawn]

    def _draw(self, round_: int) -> list[str]:
        ids = [spec.id for spec in self.specs]
        return draw_clients(self.training, ids, self.standings, self.seed, round_)

    def step(self, finished: "Callable[[Outcome], None]" = lambda outcome: None) -> RoundRecord:
        """Runs one round and moves the state on. `finished` is called as each client ends.

        Raises NoQuorum when fewer usable replies than the quorum come back; the state is then unchanged.
        """
        round_ = self.round + 1
        selected = self.select(round_)
        messages = [Message(spec.id, round_, self.method.send(self.state, spec)) for spec in selected]
        record = RoundRecord(round_, {m.client: wire_size(m) for m in messages})
        began = time.perf_counter()
        replies = collect_replies(self.engine, messages, self.training, record, finished)
        record.train_seconds = time.perf_counter() - began
        usable = self._keep_needed(self._screen(replies, messages, record), record)
        self.state = self._aggregate(usable, record)
        record.of_clients = self.method.describe_clients(self.state)
        record.aggregate_seconds = time.perf_counter() - began - record.train_seconds
        self._update_standings(record)
        self.round = round_
        return record

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

    def _keep_needed(self, usable: list[Reply], record: RoundRecord) -> list[Reply]:
        kept = keep_needed(usable, self._draw(record.round), count_needed(self.training, len(self.specs)))
        record.surplus = {reply.client for reply in usable} - {reply.client for reply in kept}
        return kept

    def _update_standings(self, record: RoundRecord) -> None:
        record.readmitted = {
            client for client in record.bytes_down if client in self.standings and self.standings[client].excluded_until
        }
        asked, useless = record.bytes_down.keys(), record.quarantined.keys()
        self.standings = update_standings(self.training, self.standings, asked, useless, record.round)
        record.excluded = {
            client: self.standings[client].excluded_until
            for client in sorted(useless)
            if client in self.standings and self.standings[client].is_excluded(record.round + 1)
        }

    def _require_quorum(self, usable: list[Reply], record: RoundRecord) -> None:
        count = len(record.bytes_down)
        needed = count_quorum(self.training, len(self.specs))
        if len(usable) < needed:
            hint = f"; what round {self.round} left is kept" if self.round else ""
            raise NoQuorum(
                f"round {record.round}: {len(usable)} of {count} clients replied usably, "
                f"the quorum is {needed}{hint} ({group_reasons(record.quarantined)})"
            )

    def _aggregate(self, usable: list[Reply], record: RoundRecord) -> Any:
        """The next state. A reply with which the method can make no finite one is left out."""
        self._require_quorum(usable, record)
        state = try_aggregate(self.method, self.state, usable)
        while isinstance(state, Exception):
            blamed = find_blame(self.method, self.state, usable, state)
            if not blamed:  # it is no one reply's fault: the method's own, or several clients' together
                remains = f"what round {self.round} left is kept" if self.round else "no round was completed"
                raise UserError(
                    f"round {record.round}: the method cannot aggregate its {len(usable)} replies "
                    f"({describe_error(state)}); {remains}"
                ) from state
            record.quarantined |= blamed
            usable = [reply for reply in usable if reply.client not in blamed]
            self._require_quorum(usable, record)
            state = try_aggregate(self.method, self.state, usable)
        return state

    def evaluate(self, split: str, model: ModelChoice) -> "dict[str, Scores]":
        """Scores of every client that is evaluated, by id, on one split of its own rows."""
        return self.engine.evaluate(self.deployment_messages(), split, model)

    def cross_evaluate(self, split: str, choices: Mapping[str, ModelChoice]) -> "dict[str, dict[str, Scores]]":
        """Every client's deployed model on every client's rows: by whose model, then by whose rows."""
        return self.engine.cross_evaluate(self.deployment_messages(), split, choices)

    def deployment_messages(self) -> list[Message]:
        """What every client would be sent now, to deploy a model."""
        return [
            Message(spec.id, self.round + 1, self.method.send(self.state, spec)) for spec in self.evaluation_clients
        ]
