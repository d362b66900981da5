"""What a federation asks of an engine: run clients' rounds and evaluations, wherever the clients live."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, Reply

# Which model of a client is scored: the one it would deploy, after the last aggregation; or the one that its last
# local training left, before that aggregation.
Which = Literal["personal", "trained"]
Scores = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """One client's round: a reply, or the reason why there is none."""

    client: str
    reply: Reply | None
    failure: str | None
    seconds: float


class Engine(Protocol):
    """Where clients run. Engines yield outcomes as clients finish, in any order."""

    def train(self, messages: Sequence[Message]) -> Iterator[Outcome]: ...

    def evaluate(self, messages: Sequence[Message], split: str, which: Which) -> dict[str, Scores]: ...

    def cross_evaluate(self, messages: Sequence[Message], split: str) -> dict[str, dict[str, Scores]]: ...

    def client_states(self) -> dict[str, ClientState]: ...

    def restore(self, states: dict[str, ClientState]) -> None: ...
