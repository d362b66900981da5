"""What both engines over Flower share: requests made of messages, and answers read as outcomes and scores."""

import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedpeft.engines.base import Engine, Outcome, Scores, make_late_outcome, make_overdue_outcome
from fedpeft.engines.flower.protocol import pack
from fedpeft.engines.flower.relay import Answer, Relay
from fedpeft.errors import printable
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.message import Message, decode, encode

log = logging.getLogger(__name__)
OVERDUE = "not scored by its deadline (training.deadline_seconds)"
MOST_SCORES = 100  # of one client's model on one split
MOST_EXAMPLES = 2**40
LOG_FIELDS = ("round", "split", "model", "client")  # which stand beside the scores in metrics.jsonl


class RemoteEngine(Engine):
    """An engine whose clients answer requests somewhere else."""

    relay: Relay

    @abstractmethod
    def find_nodes(self, clients: Sequence[str]) -> dict[str, int]:
        """The node of each of these clients that has one now."""

    @abstractmethod
    def make_request(self, ask: str, message: Message, fields: Mapping[str, Any]) -> bytes:
        """The request to the client that a message is for."""

    @abstractmethod
    def keep_trained(self, message: Message, answer: Answer) -> None:
        """Keeps what an answer says of the client's state after a round that counts."""

    def train(
        self, messages: Sequence[Message], deadline: float | None = None, round_deadline: float | None = None
    ) -> Iterator[Outcome]:
        by_client, began = {message.client: message for message in messages}, time.perf_counter()
        limit = self.get_training_limit(deadline, round_deadline)
        # The round's time too, so that a client that hangs can be asked again when it is over.
        fields = {client: {"deadline": deadline, "round_deadline": round_deadline} for client in by_client}
        for client, answer in self._ask("train", messages, fields, limit):
            outcome = _read_outcome(client, answer, time.perf_counter() - began)
            if outcome.reply is not None:
                self.keep_trained(by_client[client], answer)
            del by_client[client]
            yield outcome
        for client in by_client:
            seconds = time.perf_counter() - began
            is_late = deadline is None or (round_deadline is not None and seconds >= round_deadline)
            yield (
                make_late_outcome(client, seconds) if is_late else make_overdue_outcome(client, deadline or 0, seconds)
            )

    def get_training_limit(self, deadline: float | None, round_deadline: float | None) -> float | None:
        """Most seconds that training is waited for. Default: the round's; a client's is watched where it trains."""
        return round_deadline

    def ask_for_scores(
        self, ask: str, messages: Sequence[Message], fields: Mapping[str, Mapping[str, Any]], limit: float | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Scores by client in the order of the messages, and why there are none of others; `fields` by client.

        Clients that missed their deadline where they are scored are in neither.
        """
        scores: dict[str, Any] = {}
        failures = {message.client: "it did not answer" for message in messages}
        for client, answer in self._ask(ask, messages, fields, limit):
            if answer.failure is None and isinstance(answer.header.get("scores"), dict):
                scores[client] = answer.header["scores"]
                del failures[client]
            elif answer.failure is None and answer.header.get("overdue") is True:
                log.error("client %s: %s", client, OVERDUE)
                del failures[client]
            else:
                failures[client] = answer.failure or "its answer holds no scores"
        return {message.client: scores[message.client] for message in messages if message.client in scores}, failures

    def _ask(
        self, ask: str, messages: Sequence[Message], fields: Mapping[str, Mapping[str, Any]], limit: float | None
    ) -> Iterator[tuple[str, Answer]]:
        nodes = self.find_nodes([message.client for message in messages])
        requests: dict[int, bytes] = {}
        clients: dict[int, str] = {}
        for message in messages:
            if message.client not in nodes:
                yield message.client, Answer({}, [], "no node of it is connected")
                continue
            node = nodes[message.client]
            requests[node] = self.make_request(ask, message, fields[message.client])
            clients[node] = message.client
        for node, answer in self.relay.ask(requests, limit):
            yield clients[node], answer


def make_request(ask: str, message: Message, fields: Mapping[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """A request about a message, and what else belongs to it."""
    return pack({"ask": ask, "client": message.client, **fields}, [encode(message), *parts])


def _read_outcome(client: str, answer: Answer, seconds: float) -> Outcome:
    failure = answer.failure or answer.header.get("failure")
    if failure is not None:
        return Outcome(client, None, str(failure), seconds)
    try:
        return Outcome(client, decode(answer.parts[0]), None, seconds)
    except (IndexError, ValueError) as error:
        return Outcome(client, None, f"its reply cannot be read: {error}", seconds)


def read_scores(scores: Mapping[str, Any], metric: str) -> Scores:
    """Scores that a client sent, numbers by name: `metric`, `loss`, the count of `examples`, and others.

    Raises ValueError for anything else.
    """
    if len(scores) > MOST_SCORES or not all(type(value) in (int, float) for value in scores.values()):
        raise ValueError("its scores are not numbers by name")
    if missing := [name for name in (metric, "loss", "examples") if name not in scores]:
        raise ValueError(f"its scores lack {', '.join(missing)}")
    if unusable := [name for name in scores if name in LOG_FIELDS or not name.isprintable() or len(name) > 100]:
        raise ValueError(f"{printable(unusable[0], 60)!r} is no name of a score")
    if type(scores["examples"]) is not int or not 1 <= scores["examples"] <= MOST_EXAMPLES:
        raise ValueError(f"its scores are of {str(scores['examples'])[:40]} examples")
    return dict(scores)


def make_fields(messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, dict[str, Any]]:
    """What a request for scores says, by client."""
    return {message.client: {"split": split, "model": model} for message in messages}
