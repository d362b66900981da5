"""From an experiment to a federation ready to run: data, backbone, method, clients, engine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedpeft.adapters import Slot, load_backbone
from fedpeft.budgets import Allotment
from fedpeft.config import Experiment
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.models import Models, seeded
from fedpeft.federation.client import Client, ClientSpec, Padding
from fedpeft.federation.federation import Federation
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.runs.resources import allotments, lowest
from fedpeft.tasks.encode import encode
from fedpeft.tasks.load import load_task
from fedpeft.tasks.types import FederatedData

POOLED = "*"  # no client can have this id
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Built:
    """Everything that one run holds in memory."""

    federation: Federation
    engine: LocalEngine
    data: FederatedData
    model: Slot  # at its start
    tokenizer: Any


def build(experiment: Experiment, method: Method[Any], seed: int, base: Path) -> Built:
    """Loads data and backbone and joins them. Deterministic in (experiment, seed). Raises UserError."""
    data = load_task(experiment.task, experiment.partition, seed, base)
    model = load_model(experiment, len(data.labels), seed)
    # One simulated client that holds everything is bound by nobody's resources.
    dealt = {} if method.pooled else deal(experiment, method, [client.id for client in data.clients], model[0], seed)
    return assemble(experiment, method, seed, data, model, dealt)


def load_model(experiment: Experiment, num_labels: int, seed: int) -> tuple[nn.Module, Any]:
    """The frozen backbone, with the head that everyone starts from, and its tokenizer."""
    with seeded(seed, "head"):
        return load_backbone(
            experiment.model.name,
            num_labels=num_labels,
            pooling=experiment.model.pooling,
            dtype=experiment.model.dtype,
            device=experiment.model.device,
        )


def assemble(
    experiment: Experiment,
    method: Method[Any],
    seed: int,
    data: FederatedData,
    model: tuple[nn.Module, Any],
    dealt: dict[str, Allotment],
) -> Built:
    """A federation of the clients in `data`, before its first round; `dealt` is what they can carry, by id."""
    torch.set_num_threads(1)  # workers are the parallelism; one thread keeps sums in one order
    backbone, tokenizer = model
    splits = {
        client.id: {name: encode(getattr(client, name), tokenizer, experiment.model.max_length) for name in SPLITS}
        for client in data.clients
    }
    if method.pooled:
        splits = splits | {POOLED: {name: [row for rows in splits.values() for row in rows[name]] for name in SPLITS}}
    everyone = [ClientSpec(name, len(rows["train"]), dealt.get(name, Allotment())) for name, rows in splits.items()]
    audience = [spec for spec in everyone if spec.id != POOLED]
    specs = [spec for spec in everyone if spec.id == POOLED] or audience

    models = Models(backbone, seed)
    templates = {spec.id: models.template(method.adapter(backbone, spec)) for spec in everyone}
    initial = {name: template.read() for name, template in templates.items()}
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    clients = [Client(s, splits[s.id], len(data.labels), padding, initial[s.id], seed) for s in everyone]
    workers = experiment.workers or os.cpu_count() or 1
    engine = LocalEngine(method, clients, templates, experiment.training, seed, workers)
    known = {spec.id: templates[spec.id] for spec in specs}
    info = FederationInfo(
        tuple(specs),
        {client: initial[client] for client in known},
        {client: template.dimensions() for client, template in known.items()},
    )
    state = method.start(info, seed)
    federation = Federation(method, engine, state, specs, audience, experiment.training, seed)
    return Built(federation, engine, data, templates[audience[0].id], tokenizer)


def deal(
    experiment: Experiment, method: Method[Any], clients: list[str], backbone: nn.Module, seed: int
) -> dict[str, Allotment]:
    """What each client can carry: its own level of resources, or everyone's lowest where the method says so."""
    own = allotments(clients, experiment.resources, backbone, seed)
    return lowest(own) if method.options.levels == "lowest" else own
