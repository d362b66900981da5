"""Asks a round's clients through the engine and takes their replies: one a client, each a message of the round."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedpeft.errors import printable
from fedpeft.federation.message import Message, Reply, wire_size
from fedpeft.federation.reasons import LIMIT
from fedpeft.federation.record import RoundRecord
from fedpeft.federation.schema import find_fault
from fedpeft.federation.training_config import TrainingConfig

if TYPE_CHECKING:  # an engine runs what is in this package; here it is known by its contract only
    from fedpeft.engines.base import Engine, Outcome

log = logging.getLogger(__name__)


def collect_replies(
    engine: "Engine",
    messages: Sequence[Message],
    training: TrainingConfig,
    record: RoundRecord,
    finished: "Callable[[Outcome], None]",
) -> list[Reply]:
    """The replies that are messages of this round, one a client, sorted by client; a reason for every other.

    `finished` is called with each client's outcome.
    """
    replies: dict[str, Reply] = {}
    heard: set[str] = set()
    for outcome in engine.train(messages, training.deadline_seconds):
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
