"""The local engine: every client in this process, one frozen backbone in memory per device, W worker threads.

Each worker has its own adapted model (its own adapter tensors over the shared backbone) and one torch thread; a
client's adapter is copied in, trained and copied out. Results depend neither on W nor on the number of devices of one
type: randomness is keyed by round and client.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.adapters import AdaptedModel
from fedpeft.adapters.export import save_adapter
from fedpeft.engines.base import (
    Engine,
    EngineSetup,
    Outcome,
    Scores,
    make_late_outcome,
    make_overdue_outcome,
)
from fedpeft.engines.replicas import Replicas
from fedpeft.engines.workers import Abandoned, Ended, RoundOver, Workers, stop_if_abandoned
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec, ClientState
from fedpeft.federation.deployment import ModelChoice, list_model_choices
from fedpeft.federation.influence import is_finite
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig

log = logging.getLogger(__name__)
T = TypeVar("T")
DIVERGED = "local training diverged: its tensors are not finite; a lower learning rate may help"


@dataclass(frozen=True)
class Trained:
    """One client's round: its outcome, and the state to keep of it; None where it failed."""

    outcome: Outcome
    state: ClientState | None


class LocalEngine(Engine):
    """Runs clients in this process. `templates` gives each client's model at its start, by client id."""

    def __init__(
        self,
        method: Method[Any],
        clients: Sequence[Client],
        templates: Mapping[str, AdaptedModel],
        training: TrainingConfig,
        seed: int,
        workers: int,
        accelerations: Sequence[Acceleration] | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.method, self.training, self.seed = method, training, seed
        self.accelerations = make_accelerations() if accelerations is None else tuple(accelerations)
        self.by_id = {client.spec.id: client for client in clients}
        self.templates = templates
        self._replicas = Replicas(devices)
        self._workers = Workers(workers, self._prepare_worker)
        self._own = threading.local()  # what each worker has of its own
        self._scored: dict[tuple[str, str], dict[bytes, Scores]] = {}

    @classmethod
    def make(cls, setup: EngineSetup) -> "LocalEngine":
        return cls(
            setup.method,
            setup.clients,
            setup.templates,
            setup.training,
            setup.seed,
            setup.workers,
            setup.accelerations,
            devices=setup.devices,
        )

    def clients(self) -> list[ClientSpec]:
        return sorted((client.spec for client in self.by_id.values()), key=lambda spec: spec.id)

    def train(
        self, messages: Sequence[Message], deadline: float | None = None, round_deadline: float | None = None
    ) -> Iterator[Outcome]:
        """One local round per message, longest clients first; yields outcomes as clients finish."""
        longest_first = sorted(messages, key=lambda m: -self.by_id[m.client].spec.examples)
        for ended in self._workers.run(self._train_one, longest_first, deadline, round_deadline=round_deadline):
            if ended.result is not None:
                yield self._keep(ended.result)
            elif isinstance(ended.error, RoundOver):
                yield make_late_outcome(ended.item.client, ended.seconds)
            elif deadline is not None and isinstance(ended.error, TimeoutError):
                yield make_overdue_outcome(ended.item.client, deadline, ended.seconds)
            else:
                raise _as_exception(ended)

    def evaluate(self, messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, Scores]:
        def evaluate_one(message: Message) -> tuple[str, Scores]:
            loaded = self._load(message, model)
            return message.client, self._score(loaded, message.client, split)

        scores = dict(self._each(evaluate_one, messages))
        return {message.client: scores[message.client] for message in messages if message.client in scores}

    def cross_evaluate(
        self, messages: Sequence[Message], split: str, choices: Mapping[str, ModelChoice]
    ) -> dict[str, dict[str, Scores]]:
        clients = [message.client for message in messages]

        def evaluate_one(message: Message) -> tuple[str, dict[str, Scores]]:
            return message.client, self._evaluate_elsewhere(message, choices[message.client], clients, split)

        scores = dict(self._each(evaluate_one, messages, len(clients)))
        if overdue := [client for client in clients if client not in scores]:
            raise UserError(f"client {overdue[0]!r}: {describe_overdue_scores(self.training)}")
        return {client: scores[client] for client in clients}

    def evaluate_elsewhere(
        self, message: Message, choice: ModelChoice, clients: Sequence[str], split: str
    ) -> dict[str, Scores]:
        """Scores of one client's model on the examples of each of these clients. Raises UserError when overdue."""
        for scores in self._each(
            lambda m: self._evaluate_elsewhere(m, choice, clients, split), [message], len(clients)
        ):
            return scores
        raise UserError(describe_overdue_scores(self.training))

    def _evaluate_elsewhere(
        self, message: Message, choice: ModelChoice, clients: Sequence[str], split: str
    ) -> dict[str, Scores]:
        loaded = self._load(message, choice)
        return {client: self._score(loaded, client, split) for client in clients}

    def export(
        self, messages: Sequence[Message], folder: Path, card: Mapping[str, Any], choices: Mapping[str, ModelChoice]
    ) -> None:
        folder.mkdir(exist_ok=True)
        models: dict[int, AdaptedModel] = {}  # by template, as clients may differ in rank and layers
        for message in messages:
            template = self.templates[message.client]
            if id(template) not in models:
                models[id(template)] = template.clone()  # without the hooks and accelerations of the workers' models
            model = models[id(template)]
            self._load_into(model, message, choices[message.client])
            save_adapter(model, folder / message.client, card)

    def save(self, round_: int) -> dict[str, ClientState]:
        return {name: client.local for name, client in self.by_id.items()}

    def restore(self, round_: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        for name, state in saved.items():
            self.by_id[name].local = ClientState(state["trained"], state["kept"])

    def close(self) -> None:
        self._workers.close()

    # ---- inside

    def _each(self, work: Callable[[Message], T], messages: Sequence[Message], parts: int = 1) -> Iterator[T]:
        """What `work` returns for each message, as it ends; raises what it raises. Leaves overdue clients out.

        Each has its deadline for each of the `parts` of its work.
        """
        deadline = self.training.deadline_seconds
        for ended in self._workers.run(work, messages, deadline, lambda message: parts):
            if deadline is not None and isinstance(ended.error, TimeoutError):
                log.error("client %s: %s", ended.item.client, describe_overdue_scores(self.training))
            elif ended.error is not None:
                raise _as_exception(ended)
            else:
                yield cast(T, ended.result)

    def _keep(self, trained: Trained) -> Outcome:
        """Gives the client what its round left, in the caller's thread: an abandoned round never comes here."""
        if trained.state is not None:
            self.by_id[trained.outcome.client].local = trained.state
        return trained.outcome

    def _prepare_worker(self, number: int) -> None:
        torch.set_num_threads(1)
        self._own.number = number
        self._replicas.use_device(number)

    def _clone(self, template: AdaptedModel) -> AdaptedModel:
        """A model of this worker's own, on its device."""
        return self._replicas.get(template, self._own.number).clone()

    def _get_model(self, client: str) -> AdaptedModel:
        """This worker's own model for a client; clients of one template share it."""
        models: dict[int, AdaptedModel] = self._own.__dict__.setdefault("models", {})
        template = self.templates[client]
        if id(template) not in models:
            model = self._clone(template)
            for module in (model.model, model.base):  # `generate` calls the second alone
                module.register_forward_pre_hook(lambda *_: stop_if_abandoned())
            for acceleration in self.accelerations:
                acceleration.install_(model)
            models[id(template)] = model
        return models[id(template)]

    def _train_one(self, message: Message) -> Trained:
        """One client's round, on a copy of its state: one that fails, or is abandoned, leaves the client as it was."""
        began = time.perf_counter()
        reply: Reply | None = None
        client = self._copy_client(message.client)
        try:
            model = self._get_model(message.client)
            shuffle = generator(self.seed, "shuffle", message.round, message.client)
            with self._accelerate(model, message.client):
                reply = self.method.train(model, message, client, self.training, shuffle)
            failure = DIVERGED if has_diverged(client.local) else None
        except Abandoned:
            raise
        except BaseException as error:  # the boundary between a client and the federation, also for `sys.exit`
            failure = f"{type(error).__name__}: {error}"
            log.exception("client %s failed in round %d", message.client, message.round)
        seconds = time.perf_counter() - began
        if failure is not None:
            return Trained(Outcome(message.client, None, failure, seconds), None)
        return Trained(Outcome(message.client, reply, None, seconds), self._get_kept(client))

    def _copy_client(self, name: str) -> Client:
        """The client as a round may change it; its examples are shared."""
        client = self.by_id[name]
        return replace(client, local=ClientState(client.local.trained, dict(client.local.kept)))

    def _get_kept(self, client: Client) -> ClientState:
        """What is kept of a round's state: with thousands of clients, what nobody asks for would fill the memory."""
        is_deployable = "trained" in list_model_choices(self.training, self.method)
        if not is_deployable and not self.method.uses_client_state:
            client.local.trained = None
        return client.local

    def _load(self, message: Message, choice: ModelChoice) -> AdaptedModel:
        model = self._get_model(message.client)
        with self._accelerate(model, message.client):
            self._load_into(model, message, choice)
        return model

    def _load_into(self, model: AdaptedModel, message: Message, choice: ModelChoice) -> None:
        client = self.by_id[message.client]
        if choice == "trained" and client.local.trained is not None:
            model.restore(client.local.trained)
        else:
            self.method.load_personal(model, message, client)

    @contextmanager
    def _accelerate(self, model: AdaptedModel, client: str) -> Iterator[None]:
        with ExitStack() as stack:
            for acceleration in self.accelerations:  # which know a client by its object: not by a round's copy
                stack.enter_context(acceleration.apply(model, self.by_id[client]))
            yield

    def _score(self, model: AdaptedModel, client: str, split: str) -> Scores:
        """Scores of a model on one client's examples; computed once for equal tensors."""
        known = self._scored.setdefault((client, split), {})
        key = digest_tensors(model.snapshot())
        scores = known.get(key)  # received and trained are often one and the same model
        if scores is None:
            with self._accelerate(model, client):
                scores = known[key] = self.by_id[client].scores(model, split)
            for stale in list(known)[: -len(get_args(ModelChoice))]:
                known.pop(stale, None)  # another worker may have been here
        return scores


def describe_overdue_scores(training: TrainingConfig) -> str:
    """Why a client has no scores: the same words in every engine."""
    return f"not scored within {training.deadline_seconds:g} s, its deadline (training.deadline_seconds)"


def _as_exception(ended: Ended[Message, Any]) -> Exception:
    """What stopped a client's thread, as an error that the process may be ended by: not `sys.exit(0)`."""
    if isinstance(ended.error, Exception):
        return ended.error
    return UserError(f"client {ended.item.client!r} ended with {type(ended.error).__name__}: {ended.error}")


def has_diverged(state: ClientState) -> bool:
    """Whether anything that a client keeps is not finite."""
    return not is_finite((*(state.trained or {}).values(), *state.kept.values()))


def digest_tensors(tensors: Tensors) -> bytes:
    """A digest of the values: equal tensors, equal digest."""
    digest = hashlib.blake2b()
    for tensor in tensors.values():
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
