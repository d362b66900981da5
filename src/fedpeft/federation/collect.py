"""Asks a round's clients through the engine and takes their replies: one a client, each a message of the round."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fedpeft.errors import printable
from fedpeft.federation.message import Message, Reply, wire_size
from fedpeft.federation.reasons import LIMIT, group_reasons
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

    Clients from which no reply came are asked again, `retries` times, as long as the round has time left. `finished`
    is called once with each client's outcome, the last one.
    """
    began = time.monotonic()
    replies: dict[str, Reply] = {}
    failures: dict[str, Outcome] = {}  # of clients that may be asked again
    for attempt in range(training.retries + 1):
        time_left = None
        if training.round_deadline_seconds is not None:
            time_left = max(0.0, began + training.round_deadline_seconds - time.monotonic())
        if attempt:
            messages = [message for message in messages if message.client in record.failed]
            if not messages or time_left == 0:
                break
            _note_retry(messages, record)
        for outcome in _ask(engine, messages, training.deadline_seconds, time_left, record, replies):
            if outcome.client in record.failed and attempt < training.retries:
                failures[outcome.client] = outcome
            else:
                failures.pop(outcome.client, None)
                finished(outcome)
    for outcome in failures.values():
        finished(outcome)
    record.bytes_up = {client: wire_size(reply) for client, reply in replies.items()}
    return [replies[client] for client in sorted(replies)]


def _note_retry(messages: Sequence[Message], record: RoundRecord) -> None:
    reasons = {message.client: record.quarantined.pop(message.client) for message in messages}
    log.warning("round %d: clients are asked again: %s", record.round, group_reasons(reasons))
    for message in messages:
        record.failed.discard(message.client)
        record.retried[message.client] = record.retried.get(message.client, 0) + 1
        record.bytes_down[message.client] += wire_size(message)


def _ask(
    engine: "Engine",
    messages: Sequence[Message],
    deadline: float | None,
    round_deadline: float | None,
    record: RoundRecord,
    replies: dict[str, Reply],
) -> "Iterator[Outcome]":
    """Yields the outcomes of these clients once they stand in `replies`, or their reasons in `record`."""
    asked, heard = {message.client for message in messages}, set()
    for outcome in engine.train(messages, deadline, round_deadline):
        if outcome.client not in asked:
            log.error("round %d: an outcome of %.100r, which was sent nothing", record.round, outcome.client)
            continue
        reason = "more than one reply came from it" if outcome.client in heard else _find_unusable(outcome, record)
        heard.add(outcome.client)
        if reason is None and outcome.reply is not None:
            replies[outcome.client] = outcome.reply
        else:
            replies.pop(outcome.client, None)
            record.quarantined[outcome.client] = printable(reason or "no reply", LIMIT)
        record.client_seconds[outcome.client] = record.client_seconds.get(outcome.client, 0.0) + outcome.seconds
        yield outcome
    for client in asked - heard:
        record.failed.add(client)
        record.quarantined[client] = "no reply came from it"


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
