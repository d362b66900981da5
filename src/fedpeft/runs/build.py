"""From an experiment to a federation ready to run: data, backbone, method, clients, engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones import load_backbone, load_decoder
from fedpeft.budgets.levels import assign_resources, minimum_config
from fedpeft.config import Experiment, ModelConfig
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine, EngineSetup
from fedpeft.engines.templates import TemplateCache, use_seed
from fedpeft.environment import count_usable_cores
from fedpeft.federation.answers import Generation, MultipleChoice
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Tensors
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.federation.task import Autocast, Classification, Regression, Task
from fedpeft.resources import ClientResources
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding, encode, encode_numbers, encode_prompts
from fedpeft.tasks.examples import SPLITS, Example, FederatedData
from fedpeft.tasks.extract import make_answer_rule
from fedpeft.tasks.load import load_task
from fedpeft.tasks.metrics import METRICS
from fedpeft.tasks.prompts import DECODER_KINDS, make_prompt_function

POOLED = "*"  # no client can have this id


@dataclass(frozen=True)
class RunContext:
    """Everything that one run holds in memory."""

    federation: Federation
    engine: Engine
    clients: list[Client]
    templates: dict[str, AdaptedModel]  # every client's model at its start, by id
    initial: dict[str, Tensors]  # its trained tensors
    data: FederatedData
    model: AdaptedModel  # at its start
    tokenizer: Any
    task: Task


def build(
    experiment: Experiment,
    method: Method[Any],
    seed: int,
    base: Path,
    accelerations: Sequence[Acceleration] | None = None,
) -> RunContext:
    """Loads data and backbone and joins them. Deterministic in (experiment, seed). Raises UserError.

    `cache` is one that other runs share; without it the experiment gets its own, where it asks for one.
    """
    data = load_task(experiment.task, experiment.partition, seed, base)
    model = load_model(experiment.model, experiment.task, len(data.labels), seed)
    # One simulated client that holds everything is bound by nobody's resources.
    dealt = (
        {}
        if method.pools_data
        else assign_to_clients(experiment, method, [client.id for client in data.clients], model[0], seed)
    )
    return assemble(experiment, method, seed, data, model, dealt, accelerations)


def load_model(model: ModelConfig, task: TaskConfig, num_labels: int, seed: int) -> tuple[nn.Module, Any]:
    """The frozen backbone, for encoders' tasks with the head that everyone starts from, and its tokenizer."""
    where: dict[str, Any] = model.model_dump(include={"dtype", "device", "quantization", "device_map"})
    if task.kind in DECODER_KINDS:
        return load_decoder(model.name, **where)
    with use_seed(seed, "head"):
        return load_backbone(model.name, num_labels=num_labels, pooling=model.pooling, **where)


def make_task(config: TaskConfig, num_labels: int, tokenizer: Any) -> Task:
    """What clients learn and how they are scored."""
    metric = config.metric or METRICS[config.kind][0]
    if config.kind == "classification":
        return Classification(num_labels, metric)
    if config.kind == "regression":
        return Regression(metric)
    if config.kind == "multiple_choice":
        return MultipleChoice(tokenizer, config.max_new_tokens, config.trigger, config.generated, metric)
    return Generation(tokenizer, config.max_new_tokens, make_answer_rule(config.extract, config.choices or ()), metric)


def encode_examples(config: TaskConfig, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Encoded]:
    """The examples as token ids, in the form that the kind of task takes."""
    if config.kind in DECODER_KINDS:
        return encode_prompts(examples, tokenizer, max_length, make_prompt_function(config, tokenizer))
    return (encode_numbers if config.kind == "regression" else encode)(examples, tokenizer, max_length)


def assemble(
    experiment: Experiment,
    method: Method[Any],
    seed: int,
    data: FederatedData,
    model: tuple[nn.Module, Any],
    dealt: dict[str, ClientResources],
    accelerations: Sequence[Acceleration] | None = None,
) -> RunContext:
    """A federation of the clients in `data`, before its first round; `dealt` is what they can carry, by id."""
    torch.set_num_threads(1)  # workers are the parallelism; one thread keeps sums in one order
    backbone, tokenizer = model
    splits = {
        client.id: {
            name: encode_examples(experiment.task, getattr(client, name), tokenizer, experiment.model.max_length)
            for name in SPLITS
        }
        for client in data.clients
    }
    data = replace(data, notes=(*data.notes, *_cut(experiment, splits)))
    if method.pools_data:
        splits = splits | {POOLED: {name: [row for rows in splits.values() for row in rows[name]] for name in SPLITS}}
    everyone = [
        ClientSpec(name, len(rows["train"]), dealt.get(name, ClientResources())) for name, rows in splits.items()
    ]
    evaluation_clients = [spec for spec in everyone if spec.id != POOLED]
    specs = [spec for spec in everyone if spec.id == POOLED] or evaluation_clients

    templates, initial = _adapted(method, everyone, backbone, seed)
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    task = make_task(experiment.task, len(data.labels), tokenizer)
    if experiment.model.autocast_dtype is not None:
        task = Autocast(task, experiment.model.autocast_dtype)
    clients = [Client(s, splits[s.id], task, padding, initial[s.id], seed) for s in everyone]
    if accelerations is None:
        accelerations = make_accelerations(experiment.requested_accelerations())
    engine = find_engine(experiment.engine).make(
        EngineSetup(
            method,
            clients,
            templates,
            experiment.training,
            seed,
            experiment.workers or default_workers(experiment.model),
            accelerations,
            experiment.clients_at_once,
        )
    )
    state = method.start(_info(specs, templates, initial), seed)
    federation = Federation(method, engine, state, specs, evaluation_clients, experiment.training, seed)
    return RunContext(
        federation, engine, clients, templates, initial, data, templates[evaluation_clients[0].id], tokenizer, task
    )


def start_only(experiment: Experiment, method: Method[Any], data: FederatedData, backbone: nn.Module) -> None:
    """Makes every client's adapter and the server's first state, to see whether it can be done. Raises UserError."""
    dealt = (
        {}
        if method.pools_data
        else assign_to_clients(experiment, method, [c.id for c in data.clients], backbone, experiment.seed)
    )
    specs = [ClientSpec(c.id, len(c.train), dealt.get(c.id, ClientResources())) for c in data.clients]
    templates, initial = _adapted(method, specs, backbone, experiment.seed)
    method.start(_info(specs, templates, initial), experiment.seed)


def _adapted(
    method: Method[Any], clients: Sequence[ClientSpec], backbone: nn.Module, seed: int
) -> tuple[dict[str, AdaptedModel], dict[str, Tensors]]:
    """Every client's model at its start, and its trained tensors; clients of one kind share both."""
    models = TemplateCache(backbone, seed)
    templates = {spec.id: models.get_template(method.adapter(backbone, spec)) for spec in clients}
    starts = {id(template): template.read() for template in templates.values()}
    return templates, {name: starts[id(template)] for name, template in templates.items()}


def _info(
    specs: Sequence[ClientSpec], templates: dict[str, AdaptedModel], initial: dict[str, Tensors]
) -> FederationInfo:
    """What the server is told of the clients that train."""
    return FederationInfo(
        tuple(specs),
        {spec.id: initial[spec.id] for spec in specs},
        {spec.id: templates[spec.id].get_dimensions() for spec in specs},
    )


def _cut(experiment: Experiment, splits: dict[str, dict[str, list[Encoded]]]) -> list[str]:
    """A note on rows that `max_length` cuts, where there are any."""
    every = [row for own in splits.values() for rows in own.values() for row in rows]
    cut = sum(row.cut for row in every)
    loses = "a prompt loses its beginning" if experiment.task.kind in DECODER_KINDS else "a text loses its end"
    note = f"{cut} of {len(every)} rows have model.max_length={experiment.model.max_length} tokens or more: {loses}"
    return [note] * (cut > 0)


def default_workers(model: ModelConfig) -> int:
    """As many as there are cores to use; on a GPU, whose memory they would share, one."""
    return count_usable_cores() if model.device == "cpu" and model.device_map is None else 1


def assign_to_clients(
    experiment: Experiment, method: Method[Any], clients: list[str], backbone: nn.Module, seed: int
) -> dict[str, ClientResources]:
    """What each client can carry: its own level of resources, or everyone's lowest where the method says so."""
    own = assign_resources(clients, experiment.resources, backbone, seed)
    return minimum_config(own) if method.options.levels == "lowest" else own
