"""The engine `flower`: sites whose data stay home, reached through a SuperLink on this machine.

A client is a site: its worker (`fedpeft site run`) holds its data, its model and its states. This side knows of a site
its id, its number of training examples and what it can carry. It remembers the round of each client's last reply that
counted (`base`), and every request says it: so a site that trained for nothing, or whose server went back to its last
checkpoint, goes on from the state that the server means.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedpeft.engines.base import EngineSetup, Scores
from fedpeft.engines.flower.config import FlowerConfig, require_flower
from fedpeft.engines.flower.exchange import pack_resources, unpack_resources
from fedpeft.engines.flower.protocol import pack
from fedpeft.engines.flower.relay import Answer, Relay
from fedpeft.engines.flower.remote import MOST_EXAMPLES, RemoteEngine, make_fields, make_request, read_scores
from fedpeft.engines.flower.submit import submit
from fedpeft.errors import UserError, printable
from fedpeft.federation.client import ClientSpec, ClientState
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.message import Message
from fedpeft.federation.schema import MOST_CHARACTERS
from fedpeft.resources import ClientResources

log = logging.getLogger(__name__)
GRACE_SECONDS = 30.0  # for the way there and back, beside a client's deadline
HELLO_SECONDS = 20.0  # for a node that came anew in the middle of a run


class FlowerDeployment(RemoteEngine):
    """Sites behind a SuperLink. Waits for `flower.sites` of them. Raises UserError where they do not come."""

    holds_clients = False

    def __init__(self, setup: EngineSetup) -> None:
        require_flower("flower")
        assert setup.settings is not None
        # Without what is the run's own, so that a site's model and data serve the next run of equal settings.
        self.settings = {key: value for key, value in setup.settings.items() if key not in ("base", "id")}
        text = json.dumps(self.settings, sort_keys=True)  # names a run of an earlier version, which has no id
        self.run = str(setup.settings.get("id") or hashlib.sha256(text.encode()).hexdigest()[:32])
        self.config, self.metric = FlowerConfig.read(setup.settings), setup.metric
        self.deadline = setup.training.deadline_seconds
        if self.config.sites is None:
            raise UserError("engine flower: flower.sites is missing: how many sites take part; --set flower.sites=3")
        self.specs: dict[str, ClientSpec] = {}
        self._nodes: dict[str, int] = {}
        self._strangers: set[int] = set()  # nodes that are no client of this run
        self._bases: dict[str, int] = {}  # the round of each client's last reply that counted
        self.relay = Relay(lambda socket: submit(self.config, socket))
        try:
            self._wait_for_sites(self.config.sites)
        except BaseException:
            self.relay.close()
            raise
        assigned = {} if setup.assign is None else setup.assign(sorted(self.specs))
        for name, spec in self.specs.items():
            if not spec.resources.list_given() and name in assigned:
                self.specs[name] = ClientSpec(name, spec.examples, assigned[name])

    @classmethod
    def make(cls, setup: EngineSetup) -> "FlowerDeployment":
        return cls(setup)

    def clients(self) -> list[ClientSpec]:
        return [self.specs[name] for name in sorted(self.specs)]

    # ---- who is there

    def _wait_for_sites(self, count: int) -> None:
        until, reasons = time.monotonic() + self.config.wait_seconds, ""
        while len(self.specs) < count:
            reasons = self._greet(min(self.config.wait_seconds, 600.0), joins=True) or reasons
            if len(self.specs) < count and time.monotonic() > until:
                present = ", ".join(sorted(self.specs)) or "none"
                raise UserError(
                    f"engine flower: {len(self.specs)} of {count} sites came within {self.config.wait_seconds:g} s "
                    f"({present}){reasons}; start the others, or change flower.sites"
                )
            time.sleep(0.5)

    def _greet(self, seconds: float, joins: bool) -> str:
        """Asks new nodes which client they are; returns why one of them is none."""
        reasons = ""
        present = self.relay.list_nodes()
        self._nodes = {client: node for client, node in self._nodes.items() if node in present}
        new = [node for node in present if node not in self._nodes.values() and node not in self._strangers]
        hello = pack({"ask": "hello", "run": self.run, "settings": self.settings})
        for node, answer in self.relay.ask(dict.fromkeys(new, hello), seconds) if new else ():
            try:
                spec = _read_hello(answer)
                if joins and spec.id not in self.specs:
                    self.specs[spec.id] = spec
                elif spec.id not in self.specs:
                    raise ValueError(f"{spec.id!r} is no client of this run")
                elif spec.id in self._nodes:
                    raise ValueError(f"another node is {spec.id!r} already")
                self._nodes[spec.id] = node
            except ValueError as error:
                reasons = f"; node {node}: {printable(str(error), 200)}"
                log.error("node %d takes no part: %s", node, printable(str(error), 300))
                if answer.failure is None:  # one whose worker is not there yet is asked again
                    self._strangers.add(node)
        return reasons

    def find_nodes(self, clients: Sequence[str]) -> dict[str, int]:
        self._greet(HELLO_SECONDS, joins=False)
        return {client: self._nodes[client] for client in clients if client in self._nodes}

    # ---- requests

    def make_request(self, ask: str, message: Message, fields: Mapping[str, Any]) -> bytes:
        base = self._bases.get(message.client, 0)
        resources = pack_resources(self.specs[message.client].resources)
        own = {"run": self.run, "base": base, "resources": resources, "settings": self.settings}
        return make_request(ask, message, {**own, **fields})

    def keep_trained(self, message: Message, answer: Answer) -> None:
        self._bases[message.client] = message.round

    def get_training_limit(self, deadline: float | None, round_deadline: float | None) -> float | None:
        limits = [limit for limit in (deadline and deadline + GRACE_SECONDS, round_deadline) if limit is not None]
        return min(limits, default=None)

    def evaluate(self, messages: Sequence[Message], split: str, model: ModelChoice) -> dict[str, Scores]:
        """Scores of the sites that answer; of others there are none, and the log says why."""
        limit = min(self.config.wait_seconds, self.get_training_limit(self.deadline, None) or math.inf)
        scores, failures = self.ask_for_scores("evaluate", messages, make_fields(messages, split, model), limit)
        checked: dict[str, Scores] = {}
        for client, own in scores.items():
            try:
                checked[client] = read_scores(own, self.metric)
            except ValueError as error:
                failures[client] = str(error)
        for client, reason in sorted(failures.items()):
            log.error("no %s scores of client %s: %s", split, client, reason)
        return checked

    def cross_evaluate(
        self, messages: Sequence[Message], split: str, choices: Mapping[str, ModelChoice]
    ) -> dict[str, dict[str, Scores]]:
        raise UserError("cross_evaluation: over a network nobody's model goes to others; leave it out, or simulate")

    def export(
        self, messages: Sequence[Message], folder: Path, card: Mapping[str, Any], choices: Mapping[str, ModelChoice]
    ) -> None:
        """Every site writes its adapter, with a card of its own, into its own folder; nothing is written here."""
        fields = {m.client: {"model": choices[m.client]} for m in messages if m.client in choices}
        known = [message for message in messages if message.client in fields]
        _, failures = self.ask_for_scores("export", known, fields, self.config.wait_seconds)
        for client, reason in sorted(failures.items()):
            log.error("client %s has exported no adapter: %s", client, reason)

    # ---- state: the sites keep theirs, this side only which of them counts

    def save(self, round_: int) -> dict[str, ClientState]:
        return {client: ClientState(None, {"base": torch.tensor(base)}) for client, base in self._bases.items()}

    def restore(self, round_: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        self._bases = {client: int(state["kept"]["base"]) for client, state in saved.items()}

    def close(self) -> None:
        self.relay.close()


def _read_hello(answer: Answer) -> ClientSpec:
    """What a site says of itself. Raises ValueError, in one line, where it is no site."""
    if answer.failure is not None:
        raise ValueError(answer.failure)
    name, examples, resources = (answer.header.get(key) for key in ("client", "examples", "resources"))
    if not isinstance(name, str) or not 0 < len(name) <= MOST_CHARACTERS or not name.isprintable():
        raise ValueError("it names no client")
    if type(examples) is not int or not 1 <= examples <= MOST_EXAMPLES:
        raise ValueError(f"{name!r} says that it has {str(examples)[:40]} examples")
    try:
        given = ClientResources() if resources is None else unpack_resources(resources)
    except ValueError as error:
        raise ValueError(f"{name!r} says that it can carry {error}") from error
    return ClientSpec(name, examples, given)
