"""From a run's spec to a federation ready to run: data, backbone, clients, engine, federation, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedpeft.acceleration import Acceleration, make_accelerations, require_checkpointing
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones import load_backbone, load_decoder
from fedpeft.backbones.given import adopt_decoder, adopt_encoder
from fedpeft.backbones.positions import require_positions
from fedpeft.backbones.pretrained import parse_device
from fedpeft.budgets.levels import assign_resources, minimum_config
from fedpeft.config import Experiment, ModelConfig
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine, EngineSetup
from fedpeft.engines.templates import TemplateCache, use_seed
from fedpeft.environment import count_usable_cores
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Tensors
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.resources import ClientResources
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.clients import require_distinct_ids
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.examples import SPLITS, FederatedData
from fedpeft.tasks.items import require_client_id
from fedpeft.tasks.kinds import find_kind, make_task
from fedpeft.tasks.load import load_task
from fedpeft.tasks.task import Task

POOLED = "*"  # no client can have this id


@dataclass(frozen=True)
class RunContext:
    """Everything that one run holds in memory; `templates` and `initial` are by client id."""

    data: FederatedData
    tokenizer: Any
    task: Task
    clients: list[Client]
    templates: dict[str, AdaptedModel]  # every client's model at its start
    initial: dict[str, Tensors]  # its trained tensors
    engine: Engine
    federation: Federation


def build(spec: RunSpec, accelerations: Sequence[Acceleration] | None = None) -> RunContext:
    """Loads data and backbone and joins them. Deterministic in the spec. Raises UserError.

    `accelerations` are those that other runs share; without them the experiment gets its own.
    """
    experiment = spec.experiment
    if not find_engine(experiment.engine).holds_clients:
        from fedpeft.runs.remote import build_remote  # which builds on this file

        return build_remote(spec)
    data = load_task(experiment.task, experiment.partition, spec.seed, spec.base)
    backbone = load_model(experiment.model, experiment.task, len(data.labels), spec.seed)
    settings = spec.as_dict()
    return assemble(experiment, spec.make_method(), spec.seed, data, backbone, accelerations, settings=settings)


def load_model(model: ModelConfig, task: TaskConfig, num_labels: int, seed: int) -> tuple[nn.Module, Any]:
    """The frozen backbone, for encoders' tasks with the head that everyone starts from, and its tokenizer.

    Raises UserError where it cannot be loaded, is not whole, or cannot read texts of the experiment's length.
    """
    where: dict[str, Any] = model.model_dump(include={"dtype", "quantization", "device_map"})
    where["device"], *others = model.devices
    for device in others:  # a worker would find it missing in the middle of a round
        parse_device(device)
    if find_kind(task.kind).is_decoder:
        given = model.module
        decoder, tokenizer = adopt_decoder(*given) if given else load_decoder(model.name, **where)
        require_positions(decoder, model.max_length, "model.max_length")
        require_positions(decoder, model.max_length + task.max_new_tokens, "model.max_length + task.max_new_tokens")
        return decoder, tokenizer
    with use_seed(seed, "head"):
        if model.module:
            encoder, tokenizer = adopt_encoder(*model.module, num_labels=num_labels, pooling=model.pooling)
        else:
            encoder, tokenizer = load_backbone(model.name, num_labels=num_labels, pooling=model.pooling, **where)
    require_positions(encoder, model.max_length, "model.max_length")
    return encoder, tokenizer


def assemble(
    experiment: Experiment,
    method: Method[Any],
    seed: int,
    data: FederatedData,
    backbone: tuple[nn.Module, Any],
    accelerations: Sequence[Acceleration] | None = None,
    resources: Mapping[str, ClientResources] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunContext:
    """A federation of the clients in `data`, before its first round, over a backbone and its tokenizer.

    `resources` are what clients were given, by id; by default as the experiment says. `settings` are what an engine's
    other processes build the same clients from. Raises UserError.
    """
    torch.set_num_threads(1)  # workers are the parallelism; one thread keeps sums in one order
    model, tokenizer = backbone
    config = experiment.model
    task = make_task(experiment.task, data.labels, tokenizer, config.max_length, config.autocast_dtype)
    # 1. Clients: their examples as token ids, what they were given, the model that each starts from.
    _require_ids(data)
    splits = _encode_splits(data, task)
    loading_notes = getattr(model, "loading_notes", ())  # of a model that a program brings there are none
    data = replace(data, notes=(*data.notes, *loading_notes, *_note_cut_examples(experiment, splits)))
    if method.pools_data:
        splits = splits | {POOLED: {name: [row for rows in splits.values() for row in rows[name]] for name in SPLITS}}
    assigned = _assign(experiment, method, data, model, seed) if resources is None else resources
    data = replace(data, notes=(*data.notes, *note_ignored(experiment, method, assigned)))
    specs = [
        ClientSpec(name, len(rows["train"]), assigned.get(name, ClientResources())) for name, rows in splits.items()
    ]
    templates, initial = make_templates(method, specs, model, seed)
    data = replace(data, notes=(*data.notes, *_note_costs(method, assigned, templates)))
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    clients = [Client(spec, splits[spec.id], task, padding, initial[spec.id], seed) for spec in specs]
    # 2. The engine that runs them.
    engine = _make_engine(experiment, method, clients, templates, seed, accelerations, settings)
    # 3. The federation: the server's state from what it may know of the clients that train.
    evaluated = [spec for spec in specs if spec.id != POOLED]
    trained = [spec for spec in specs if spec.id == POOLED] or evaluated
    state = method.start(describe_clients(trained, templates, initial), seed)
    federation = Federation(method, engine, state, trained, evaluated, experiment.training, seed)
    return RunContext(data, tokenizer, task, clients, templates, initial, engine, federation)


def require_startable(experiment: Experiment, method: Method[Any], data: FederatedData, model: nn.Module) -> None:
    """Makes every client's adapter and the server's first state, to see whether it can be done. Raises UserError."""
    assigned = _assign(experiment, method, data, model, experiment.seed)
    specs = [ClientSpec(c.id, len(c.train), assigned.get(c.id, ClientResources())) for c in data.clients]
    templates, initial = make_templates(method, specs, model, experiment.seed)
    method.start(describe_clients(specs, templates, initial), experiment.seed)


def assign_to_clients(
    experiment: Experiment, method: Method[Any], clients: list[str], model: nn.Module, seed: int
) -> dict[str, ClientResources]:
    """What each client is given: its own level of resources, or everyone's lowest where the method says so."""
    own = assign_resources(clients, experiment.resources, model, seed)
    return minimum_config(own) if method.options.levels == "lowest" else own


def default_workers(model: ModelConfig) -> int:
    """As many as there are cores to use; on a GPU, whose memory they would share, one; of several devices one each."""
    if len(model.devices) > 1:
        return len(model.devices)
    return count_usable_cores() if model.device == "cpu" and model.device_map is None else 1


def _assign(
    experiment: Experiment, method: Method[Any], data: FederatedData, model: nn.Module, seed: int
) -> dict[str, ClientResources]:
    if method.pools_data:  # one simulated client that holds everything is bound by nobody's resources
        return {}
    return assign_to_clients(experiment, method, [client.id for client in data.clients], model, seed)


def _require_ids(data: FederatedData) -> None:
    """Raises UserError for clients whose adapters could not be exported: an id names a folder."""
    for client in data.clients:
        require_client_id(client.id, "the data")
    require_distinct_ids([client.id for client in data.clients])


def _encode_splits(data: FederatedData, task: Task) -> dict[str, dict[str, list[Encoded]]]:
    """Token ids by client, then by split."""
    return {client.id: {name: task.encode(getattr(client, name)) for name in SPLITS} for client in data.clients}


def _note_cut_examples(experiment: Experiment, splits: dict[str, dict[str, list[Encoded]]]) -> list[str]:
    """A note on examples that `max_length` cuts, where there are any."""
    every = [row for own in splits.values() for rows in own.values() for row in rows]
    shortened = sum(row.is_cut for row in every)
    loses = find_kind(experiment.task.kind).cut_loses
    note = (
        f"{shortened} of {len(every)} rows have model.max_length={experiment.model.max_length} tokens or more: {loses}"
    )
    return [note] * (shortened > 0)


def note_ignored(experiment: Experiment, method: Method[Any], assigned: Mapping[str, ClientResources]) -> list[str]:
    """A note on what `resources` ask for and the method does not follow: its clients are not bound as others' are."""
    if method.pools_data:
        ignored = ["any setting"] if experiment.resources else []
    else:
        ignored = method.list_ignored(assigned.values())
    return [f"{type(method).__name__} does not follow {name} of `resources`" for name in ignored]


def _note_costs(
    method: Method[Any], assigned: Mapping[str, ClientResources], templates: Mapping[str, AdaptedModel]
) -> list[str]:
    """A note on adapters that take more than what `resources` say, where clients were given some."""
    if not any(resources.list_given() for resources in assigned.values()):
        return []
    notes = {template.kind.cost_note for template in templates.values()} - {None}
    return [f"{type(method).__name__} {note}" for note in sorted(map(str, notes))]


def make_templates(
    method: Method[Any], clients: Sequence[ClientSpec], model: nn.Module, seed: int
) -> tuple[dict[str, AdaptedModel], dict[str, Tensors]]:
    """Every client's model at its start, and its trained tensors; clients of one kind share both."""
    cache = TemplateCache(model, seed)
    templates = {spec.id: cache.get_template(method.adapter(model, spec)) for spec in clients}
    starts = {id(template): template.read() for template in templates.values()}
    return templates, {name: starts[id(template)] for name, template in templates.items()}


def _make_engine(
    experiment: Experiment,
    method: Method[Any],
    clients: list[Client],
    templates: dict[str, AdaptedModel],
    seed: int,
    accelerations: Sequence[Acceleration] | None,
    settings: Mapping[str, Any] | None,
) -> Engine:
    if accelerations is None:
        accelerations = make_accelerations(experiment.get_requested_accelerations())
    require_checkpointing(accelerations, clients)
    workers = experiment.workers or default_workers(experiment.model)
    setup = EngineSetup(
        method,
        clients,
        templates,
        experiment.training,
        seed,
        workers,
        accelerations,
        experiment.max_clients,
        experiment.model.devices,
        settings,
    )
    return find_engine(experiment.engine).make(setup)


def describe_clients(
    specs: Sequence[ClientSpec], templates: dict[str, AdaptedModel], initial: dict[str, Tensors]
) -> FederationInfo:
    """What the server is told of the clients that train."""
    return FederationInfo(
        tuple(specs),
        {spec.id: initial[spec.id] for spec in specs},
        {spec.id: templates[spec.id].get_dimensions() for spec in specs},
    )
