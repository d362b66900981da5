"""The engine `flower-sim`: every client of the experiment, trained in Ray's processes on this machine or a cluster.

The run's process holds the clients' states, as the local engine does, and sends each with its request: a process that
dies loses nothing, and resume is the local engine's.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedpeft.engines.base import EngineSetup, Scores
from fedpeft.engines.flower.config import FlowerConfig, require_flower
from fedpeft.engines.flower.exchange import decode_state, encode_state
from fedpeft.engines.flower.relay import Answer, Relay, start_process
from fedpeft.engines.flower.remote import RemoteEngine, make_fields, make_request
from fedpeft.engines.local import LocalEngine
from fedpeft.errors import UserError
from fedpeft.federation.client import ClientSpec, ClientState
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.message import Message


class FlowerSimulation(RemoteEngine):
    """Clients in Ray's processes; what needs no training is the local engine's."""

    def __init__(self, setup: EngineSetup) -> None:
        require_flower("flower-sim", "ray")
        if setup.settings is None:
            raise UserError(
                "engine flower-sim: its processes read the experiment's data and model themselves; "
                "what a program made cannot be given to them, use the engine local"
            )
        self.local = LocalEngine.make(replace(setup, workers=1))
        self.settings = setup.settings
        config = FlowerConfig.read(setup.settings)
        on_gpu = str(setup.devices[0] if setup.devices else "cpu").startswith("cuda")
        arguments = [str(len(setup.clients)), str(setup.workers), str(config.gpus_per_client if on_gpu else 0.0)]
        arguments += [] if config.ray_address is None else [config.ray_address]

        def start(socket: Path) -> Any:
            command = [sys.executable, "-m", "fedpeft.engines.flower.simulate", *arguments]
            home = {"FLWR_HOME": str(socket.parent / "home"), "FEDPEFT_RELAY": str(socket)}
            return start_process(command, socket.parent, **home)

        self.relay = Relay(start)
        try:
            nodes = self.relay.wait_for_nodes(len(setup.clients))
        except BaseException:
            self.close()
            raise
        self._nodes = dict(zip(sorted(self.local.by_id), nodes, strict=True))

    @classmethod
    def make(cls, setup: EngineSetup) -> "FlowerSimulation":
        return cls(setup)

    def clients(self) -> list[ClientSpec]:
        return self.local.clients()

    def find_nodes(self, clients: Sequence[str]) -> dict[str, int]:
        return {client: self._nodes[client] for client in clients}

    def make_request(self, ask: str, message: Message, fields: Mapping[str, Any]) -> bytes:
        state = encode_state(message.client, self.local.by_id[message.client].local)
        return make_request(ask, message, {"settings": self.settings, **fields}, [state])

    def keep_trained(self, message: Message, answer: Answer) -> None:
        self.local.by_id[message.client].local = decode_state(answer.parts[1])

    def evaluate(self, messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, Scores]:
        return self._score("evaluate", messages, make_fields(messages, split, model))

    def cross_evaluate(
        self, messages: Sequence[Message], split: str, choices: Mapping[str, ModelChoice]
    ) -> dict[str, dict[str, Scores]]:
        clients = [message.client for message in messages]
        fields = {name: {"split": split, "model": choices[name], "clients": clients} for name in clients}
        return self._score("cross", messages, fields)

    def _score(self, ask: str, messages: Sequence[Message], fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        scores, failures = self.ask_for_scores(ask, messages, fields, None)
        for client, reason in failures.items():
            raise UserError(f"client {client!r} could not be scored: {reason}")
        return scores

    def export(
        self, messages: Sequence[Message], folder: Path, card: Mapping[str, Any], choices: Mapping[str, ModelChoice]
    ) -> None:
        self.local.export(messages, folder, card, choices)

    def save(self, round_: int) -> dict[str, ClientState]:
        return self.local.save(round_)

    def restore(self, round_: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        self.local.restore(round_, saved)

    def close(self) -> None:
        self.relay.close()
        self.local.close()
