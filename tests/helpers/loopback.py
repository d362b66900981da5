"""The engine `flower-sim` with Flower left out: every request is answered by another local engine in this process."""

import threading
import time
from dataclasses import replace
from queue import Empty, Queue

from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.engines.flower.relay import read_answer
from fedpeft.engines.flower.responder import respond
from fedpeft.engines.flower.simulation import FlowerSimulation
from fedpeft.engines.local import LocalEngine
from fedpeft.federation.client import ClientState


class LoopbackRelay:
    """Answers requests one after the other in a thread, as one of Ray's processes does."""

    def __init__(self, engine):
        self.engine, self._requests, self.sizes = engine, Queue(), []
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        while (job := self._requests.get()) is not None:
            node, request, answers = job
            try:
                data = respond(self.engine, *unpack(request))
            except Exception as error:
                data = pack({"error": f"{type(error).__name__}: {error}"})
            answers.put((node, read_answer(data)))

    def ask(self, requests, seconds=None):
        answers, until = Queue(), None if seconds is None else time.monotonic() + seconds
        for node, request in requests.items():
            self.sizes.append(len(request))
            self._requests.put((node, request, answers))
        for _ in requests:
            try:
                yield answers.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except Empty:
                return

    def close(self):
        self._requests.put(None)
        self.engine.close()


class LoopbackEngine(FlowerSimulation):
    """Both halves of the protocol, whose clients share their examples and nothing else."""

    def __init__(self, setup):
        elsewhere = [replace(client, local=ClientState()) for client in setup.clients]
        self.local, self.settings = LocalEngine.make(setup), {}
        self.relay = LoopbackRelay(LocalEngine.make(replace(setup, clients=elsewhere)))
        self._nodes = {client: node for node, client in enumerate(sorted(self.local.by_id))}

    @property
    def by_id(self):
        return self.local.by_id

    @property
    def templates(self):
        return self.local.templates
