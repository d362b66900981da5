"""The local engine: every client in this process, one frozen backbone in memory, W worker threads.

Each worker has its own slot (its own adapter tensors over the shared backbone) and one torch thread; a client's
adapter is copied in, trained and copied out. Results do not depend on W: randomness is keyed by round and client.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar, get_args

import torch

from fedpeft.adapters import NOBODY, PrefixCache, Slot
from fedpeft.federation.client import Client, ClientState
from fedpeft.federation.engine import Outcome, Scores, Which
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.screen import finite
from fedpeft.federation.settings import TrainingConfig

log = logging.getLogger(__name__)
T = TypeVar("T")
WHICH = get_args(Which)
HAND_OVER = 0.01  # seconds: what a worker ends within it comes back together, so short rounds wake nobody each


class LocalEngine:
    """Runs clients in this process. `templates` gives each client's model at its start, by client id."""

    def __init__(
        self,
        method: Method[Any],
        clients: Sequence[Client],
        templates: dict[str, Slot],
        settings: TrainingConfig,
        seed: int,
        workers: int,
        cache: PrefixCache | None = None,
    ) -> None:
        self.method, self.settings, self.seed, self.cache = method, settings, seed, cache
        self.clients = {client.spec.id: client for client in clients}
        self.templates = templates
        self._workers, self._own = workers, threading.local()
        self._scored: dict[tuple[str, str], dict[bytes, Scores]] = {}
        self._pool = ThreadPoolExecutor(workers, "client", initializer=torch.set_num_threads, initargs=(1,))

    # ---- the engine's contract

    def train(self, messages: Sequence[Message]) -> Iterator[Outcome]:
        """One local round per message, longest clients first; yields outcomes as clients finish."""
        longest_first = sorted(messages, key=lambda m: -self.clients[m.client].spec.examples)
        yield from self._each(self._train_one, longest_first)

    def evaluate(self, messages: Sequence[Message], split: str, which: Which) -> dict[str, Scores]:
        """Scores by client id, in the order of the messages."""

        def one(message: Message) -> tuple[str, Scores]:
            slot = self._loaded(message, which)
            return message.client, self._scores(slot, message.client, split)

        scores = dict(self._each(one, messages))
        return {message.client: scores[message.client] for message in messages}

    def cross_evaluate(self, messages: Sequence[Message], split: str) -> dict[str, dict[str, Scores]]:
        """Every client's personal model on every client's rows: by whose model, then by whose rows."""

        def one(message: Message) -> tuple[str, dict[str, Scores]]:
            slot = self._loaded(message, "personal")
            return message.client, {other.client: self._scores(slot, other.client, split) for other in messages}

        scores = dict(self._each(one, messages))
        return {message.client: scores[message.client] for message in messages}

    def client_states(self) -> dict[str, ClientState]:
        """What every client keeps, by id: what a checkpoint must hold."""
        return {name: client.local for name, client in self.clients.items()}

    def restore(self, states: dict[str, ClientState]) -> None:
        """Puts back what `client_states` gave."""
        for name, state in states.items():
            self.clients[name].local = state

    @property
    def frozen_blocks(self) -> int:
        """The most blocks below every trained one that a client has: what a prefix cache can hold."""
        return max(template.frozen_blocks for template in self.templates.values())

    def close(self) -> None:
        """Lets clients in progress end and starts no other."""
        self._pool.shutdown(cancel_futures=True)

    # ---- inside

    def _each(self, work: Callable[[Message], T], messages: Sequence[Message]) -> Iterator[T]:
        todo = deque(messages)

        def some() -> list[T]:
            results, until = [], time.perf_counter() + HAND_OVER
            while todo:
                try:
                    message = todo.popleft()
                except IndexError:  # another worker was faster
                    break
                results.append(work(message))
                if time.perf_counter() > until:
                    break
            return results

        running: set[Future[list[T]]] = set()
        try:
            while todo or running:
                ahead = 2 * self._workers - len(running)  # one each under way and one waiting: nobody idles
                running |= {self._pool.submit(some) for _ in range(ahead if todo else 0)}
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield from future.result()
        finally:
            todo.clear()

    def _slot(self, client: str) -> Slot:
        slots: dict[int, Slot] = self._own.__dict__.setdefault("slots", {})
        template = self.templates[client]
        if id(template) not in slots:
            slot = template.clone()
            slot.lean_()
            slots[id(template)] = slot
        return slots[id(template)]

    def _train_one(self, message: Message) -> Outcome:
        client, slot = self.clients[message.client], self._slot(message.client)
        shuffle = generator(self.seed, "shuffle", message.round, message.client)
        began = time.perf_counter()
        reply: Reply | None = None
        failure: str | None = None
        before, client.local = client.local, replace(client.local)  # a round that fails leaves the client as it was
        try:
            with self._cached(slot, client), _checkpointing(slot, client):
                reply = self.method.train(slot, message, client, self.settings, shuffle)
        except Exception as error:  # the boundary between a client and the federation: any failure is one client's
            failure = f"{type(error).__name__}: {error}"
            log.exception("client %s failed in round %d", message.client, message.round)
        if failure is None and diverged(client.local):
            reply, failure = None, "local training diverged: its tensors are not finite"
        if failure is not None:
            client.local = before
        self._forget(client)
        return Outcome(message.client, reply, failure, time.perf_counter() - began)

    def _forget(self, client: Client) -> None:
        """Drops what nobody will ask for: with thousands of clients it would be most of the memory."""
        if not self.settings.before_aggregation and not self.method.remembers:
            client.local.trained = None

    def _loaded(self, message: Message, which: Which) -> Slot:
        client, slot = self.clients[message.client], self._slot(message.client)
        if which == "trained" and client.local.trained is not None:
            slot.restore(client.local.trained)
        else:
            with self._cached(slot, client):
                self.method.personal(slot, message, client)
        return slot

    def _cached(self, slot: Slot, client: Client) -> AbstractContextManager[None]:
        if self.cache is None:
            return nullcontext()
        return slot.cached(self.cache, client.company if slot.frozen_blocks else NOBODY)

    def _scores(self, slot: Slot, rows_of: str, split: str) -> Scores:
        known = self._scored.setdefault((rows_of, split), {})
        key = fingerprint(slot.snapshot())
        scores = known.get(key)  # personal and trained are often one and the same model
        if scores is None:
            with self._cached(slot, self.clients[rows_of]):
                scores = known[key] = self.clients[rows_of].scores(slot, split)
            for stale in list(known)[: -len(WHICH)]:
                known.pop(stale, None)  # another worker may have been here
        return scores


@contextmanager
def _checkpointing(slot: Slot, client: Client) -> Iterator[None]:
    """Activation checkpointing for a client that was allotted it; the slot serves other clients too."""
    if not client.spec.allotment.checkpointing:
        yield
        return
    slot.checkpointing_(True)
    try:
        yield
    finally:
        slot.checkpointing_(False)


def diverged(state: ClientState) -> bool:
    """Whether anything that a client keeps is not finite."""
    return not finite((*(state.trained or {}).values(), *state.kept.values()))


def fingerprint(tensors: Tensors) -> bytes:
    """A digest of the values: equal tensors, equal digest."""
    digest = hashlib.blake2b()
    for tensor in tensors.values():
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
