"""The local engine: every client in this process, one frozen backbone in memory, W worker threads.

Each worker has its own adapted model (its own adapter tensors over the shared backbone) and one torch thread; a
client's adapter is copied in, trained and copied out. Results do not depend on W: randomness is keyed by round and
client.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.adapters import AdaptedModel
from fedpeft.adapters.export import save_adapter
from fedpeft.engines.base import Engine, EngineSetup, ModelChoice, Outcome, Scores
from fedpeft.federation.client import Client, ClientSpec, ClientState
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.screen import is_finite
from fedpeft.federation.training_config import TrainingConfig

log = logging.getLogger(__name__)
T = TypeVar("T")
HAND_OVER = 0.01  # seconds: what a worker ends within it comes back together, so short rounds wake nobody each


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
    ) -> None:
        self.method, self.training, self.seed = method, training, seed
        self.accelerations = make_accelerations() if accelerations is None else tuple(accelerations)
        self.by_id = {client.spec.id: client for client in clients}
        self.templates = templates
        self._workers, self._own = workers, threading.local()
        self._scored: dict[tuple[str, str], dict[bytes, Scores]] = {}
        self._pool = ThreadPoolExecutor(workers, "client", initializer=torch.set_num_threads, initargs=(1,))

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
        )

    def clients(self) -> list[ClientSpec]:
        return sorted((client.spec for client in self.by_id.values()), key=lambda spec: spec.id)

    def train(self, messages: Sequence[Message]) -> Iterator[Outcome]:
        """One local round per message, longest clients first; yields outcomes as clients finish."""
        longest_first = sorted(messages, key=lambda m: -self.by_id[m.client].spec.examples)
        yield from self._each(self._train_one, longest_first)

    def evaluate(self, messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, Scores]:
        def evaluate_one(message: Message) -> tuple[str, Scores]:
            loaded = self._load(message, model)
            return message.client, self._score(loaded, message.client, split)

        scores = dict(self._each(evaluate_one, messages))
        return {message.client: scores[message.client] for message in messages}

    def cross_evaluate(self, messages: Sequence[Message], split: str) -> dict[str, dict[str, Scores]]:
        def evaluate_one(message: Message) -> tuple[str, dict[str, Scores]]:
            loaded = self._load(message, "personal")
            return message.client, {other.client: self._score(loaded, other.client, split) for other in messages}

        scores = dict(self._each(evaluate_one, messages))
        return {message.client: scores[message.client] for message in messages}

    def export(self, messages: Sequence[Message], folder: Path, card: Mapping[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        for message in messages:
            model = self.templates[message.client].clone()  # its own: clients may differ in rank and layers
            self.method.load_personal(model, message, self.by_id[message.client])
            save_adapter(model, folder / message.client, card)

    def save(self, round_: int) -> dict[str, ClientState]:
        return {name: client.local for name, client in self.by_id.items()}

    def restore(self, round_: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        for name, state in saved.items():
            self.by_id[name].local = ClientState(state["trained"], state["kept"])

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    # ---- inside

    def _each(self, work: Callable[[Message], T], messages: Sequence[Message]) -> Iterator[T]:
        waiting = deque(messages)

        def work_for_a_while() -> list[T]:
            results, until = [], time.perf_counter() + HAND_OVER
            while waiting:
                try:
                    message = waiting.popleft()
                except IndexError:  # another worker was faster
                    break
                results.append(work(message))
                if time.perf_counter() > until:
                    break
            return results

        running: set[Future[list[T]]] = set()
        try:
            while waiting or running:
                ahead = 2 * self._workers - len(running)  # one each under way and one waiting: nobody idles
                running |= {self._pool.submit(work_for_a_while) for _ in range(ahead if waiting else 0)}
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield from future.result()
        finally:
            waiting.clear()

    def _get_model(self, client: str) -> AdaptedModel:
        """This worker's own model for a client; clients of one template share it."""
        models: dict[int, AdaptedModel] = self._own.__dict__.setdefault("models", {})
        template = self.templates[client]
        if id(template) not in models:
            model = template.clone()
            for acceleration in self.accelerations:
                acceleration.install_(model)
            models[id(template)] = model
        return models[id(template)]

    def _train_one(self, message: Message) -> Outcome:
        client, model = self.by_id[message.client], self._get_model(message.client)
        shuffle = generator(self.seed, "shuffle", message.round, message.client)
        began = time.perf_counter()
        reply: Reply | None = None
        failure: str | None = None
        before, client.local = client.local, replace(client.local)  # a round that fails leaves the client as it was
        try:
            with self._accelerate(model, client):
                reply = self.method.train(model, message, client, self.training, shuffle)
        except Exception as error:  # the boundary between a client and the federation: any failure is one client's
            failure = f"{type(error).__name__}: {error}"
            log.exception("client %s failed in round %d", message.client, message.round)
        if failure is None and has_diverged(client.local):
            reply, failure = None, "local training diverged: its tensors are not finite"
        if failure is not None:
            client.local = before
        self._forget(client)
        return Outcome(message.client, reply, failure, time.perf_counter() - began)

    def _forget(self, client: Client) -> None:
        """Drops what nobody will ask for: with thousands of clients it would be most of the memory."""
        if not self.training.before_aggregation and not self.method.uses_client_state:
            client.local.trained = None

    def _load(self, message: Message, choice: ModelChoice) -> AdaptedModel:
        client, model = self.by_id[message.client], self._get_model(message.client)
        if choice == "trained" and client.local.trained is not None:
            model.restore(client.local.trained)
        else:
            with self._accelerate(model, client):
                self.method.load_personal(model, message, client)
        return model

    @contextmanager
    def _accelerate(self, model: AdaptedModel, client: Client) -> Iterator[None]:
        with ExitStack() as stack:
            for acceleration in self.accelerations:
                stack.enter_context(acceleration.apply(model, client))
            yield

    def _score(self, model: AdaptedModel, client: str, split: str) -> Scores:
        """Scores of a model on one client's examples; computed once for equal tensors."""
        known = self._scored.setdefault((client, split), {})
        key = digest_tensors(model.snapshot())
        scores = known.get(key)  # personal and trained are often one and the same model
        if scores is None:
            with self._accelerate(model, self.by_id[client]):
                scores = known[key] = self.by_id[client].scores(model, split)
            for stale in list(known)[: -len(get_args(ModelChoice))]:
                known.pop(stale, None)  # another worker may have been here
        return scores


def has_diverged(state: ClientState) -> bool:
    """Whether anything that a client keeps is not finite."""
    return not is_finite((*(state.trained or {}).values(), *state.kept.values()))


def digest_tensors(tensors: Tensors) -> bytes:
    """A digest of the values: equal tensors, equal digest."""
    digest = hashlib.blake2b()
    for tensor in tensors.values():
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
