"""The contract of an engine: everything that a run may ask of the place where its clients live, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedpeft.acceleration import Acceleration
from fedpeft.adapters import AdaptedModel
from fedpeft.federation.client import Client, ClientSpec, ClientState
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import Method
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources

Scores = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """One client's round: a reply, or the reason why there is none; `seconds` are wall-clock."""

    client: str
    reply: Reply | None
    failure: str | None
    seconds: float


def make_overdue_outcome(client: str, deadline: float, seconds: float) -> Outcome:
    """The outcome of a client that did not return by its deadline: the same words in every engine."""
    failure = f"no reply after {deadline:g} s, its deadline (training.deadline_seconds)"
    return Outcome(client, None, failure, seconds)


def make_late_outcome(client: str, seconds: float) -> Outcome:
    """The outcome of a client that had not returned when the round's time was over: the same words in every engine."""
    failure = "no reply when the round's time was over (training.round_deadline_seconds)"
    return Outcome(client, None, failure, seconds)


@dataclass(frozen=True)
class EngineSetup:
    """What a run gives to the engine that it chose. `templates` are the clients' models at their start, by id."""

    method: Method[Any]
    clients: Sequence[Client]
    templates: Mapping[str, AdaptedModel]
    training: TrainingConfig
    seed: int
    workers: int
    accelerations: Sequence[Acceleration]
    max_clients: int  # in one forward pass, for engines that join several
    devices: Sequence[str] = ()  # where workers train, in turn; the templates are on the first; (): where those are
    # What another process needs to build the same clients: `runs.spec.RunSpec.as_dict`. None: a program made them.
    settings: Mapping[str, Any] | None = None
    metric: str = "loss"  # what a client's scores hold beside `loss` and `examples`
    # What clients of these ids are given, for an engine that finds them by itself (`holds_clients` False).
    assign: Callable[[list[str]], Mapping[str, ClientResources]] | None = None


class Engine(ABC):
    """Where clients run: in this process, on several devices, or over a network.

    An engine is a file in this package whose class is found by the file's name, which is what `engine:` says in an
    experiment. Results depend neither on the engine nor on the order in which its clients finish.
    """

    # Whether the run's process reads the clients' data and gives them to the engine; else they are at their sites, and
    # the engine says which there are.
    holds_clients: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def make(cls, setup: EngineSetup) -> "Engine":
        """The engine for one run. Raises UserError when it cannot serve it."""

    @abstractmethod
    def clients(self) -> list[ClientSpec]:
        """What the server may know of each client, sorted by id."""

    @abstractmethod
    def train(
        self, messages: Sequence[Message], deadline: float | None = None, round_deadline: float | None = None
    ) -> Iterator[Outcome]:
        """One local round per message; yields outcomes as clients finish, in any order. A failure is an outcome.

        `deadline` is how many seconds a client may take from when it begins; then its outcome is
        `make_overdue_outcome`, and whatever it still does changes nothing. `round_deadline` seconds from this call the
        same holds for all that have no outcome yet, begun or not: theirs is `make_late_outcome`. A client may be asked
        again in the same round, by another call. When the caller stops listening, those that have no outcome yet count
        as never asked.
        """

    @abstractmethod
    def evaluate(self, messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, Scores]:
        """Scores by client id, in the order of the messages, of one of each client's models on its own examples.

        A client that has no trained model has what it received in its place. One that takes longer than
        `training.deadline_seconds` from when it begins has no scores.
        """

    @abstractmethod
    def cross_evaluate(
        self, messages: Sequence[Message], split: str, choices: Mapping[str, ModelChoice]
    ) -> dict[str, dict[str, Scores]]:
        """Scores of every client's deployed model on every client's examples: by whose model, then by whose examples.

        `choices` say by client id which of its models each client deploys. Raises UserError where nobody's model goes
        to others, or where a client takes longer than its deadline for each of them.
        """

    @abstractmethod
    def export(
        self, messages: Sequence[Message], folder: Path, card: Mapping[str, Any], choices: Mapping[str, ModelChoice]
    ) -> None:
        """Writes every client's deployed adapter where the client lives; in this process `<folder>/<id>/adapter/`.

        `card` says what it was trained on, `choices` by client id which of its models each client deploys. Raises
        UserError when it cannot be written.
        """

    @abstractmethod
    def save(self, round_: int) -> dict[str, ClientState]:
        """Keeps every client's state of this round; what is returned belongs in the server's checkpoint."""

    @abstractmethod
    def restore(self, round_: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Puts back the clients' states of a round; `saved` is what `save` returned, each state as a dict."""

    @abstractmethod
    def close(self) -> None:
        """Stops the clients in progress, without waiting for one that hangs. May be called again."""
