"""A federation whose clients are at their sites: the server's half, built without anybody's data."""

import torch

from fedpeft.engines import find_engine
from fedpeft.engines.base import EngineSetup
from fedpeft.errors import UserError
from fedpeft.federation.federation import Federation
from fedpeft.runs.build import (
    RunContext,
    assign_to_clients,
    describe_clients,
    load_model,
    make_templates,
    note_ignored,
)
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.clients import require_distinct_ids
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.examples import FederatedData
from fedpeft.tasks.items import require_client_id
from fedpeft.tasks.kinds import find_kind, make_task


def build_remote(spec: RunSpec) -> RunContext:
    """The server's half of a run over sites, which its engine finds. Deterministic in the spec and in who takes part.

    Raises UserError, also where the method or the task needs what only the clients' data say.
    """
    torch.set_num_threads(1)
    experiment, method = spec.experiment, spec.make_method()
    if method.pools_data:
        raise UserError(f"method {spec.label!r} pools everybody's data; over sites these stay home")
    if spec.is_crossed:  # the engine would say so after the last round
        raise UserError("cross_evaluation: over a network nobody's model goes to others; leave it out, or simulate")
    labels = require_labels(experiment.task)
    model, tokenizer = load_model(experiment.model, experiment.task, len(labels), spec.seed)
    task = make_task(experiment.task, labels, tokenizer, experiment.model.max_length, experiment.model.autocast_dtype)
    setup = EngineSetup(
        method,
        (),
        {},
        experiment.training,
        spec.seed,
        1,
        (),
        1,
        settings=spec.as_dict(),
        metric=task.metric,
        assign=lambda clients: assign_to_clients(experiment, method, clients, model, spec.seed),
    )
    engine = find_engine(experiment.engine).make(setup)
    try:
        specs = engine.clients()
        for client in specs:
            require_client_id(client.id, "a site")
        require_distinct_ids([client.id for client in specs])
        templates, initial = make_templates(method, specs, model, spec.seed)
        state = method.start(describe_clients(specs, templates, initial), spec.seed)
    except BaseException:
        engine.close()
        raise
    notes = (
        *getattr(model, "loading_notes", ()),
        *note_ignored(experiment, method, {client.id: client.resources for client in specs}),
    )
    federation = Federation(method, engine, state, specs, specs, experiment.training, spec.seed)
    data = FederatedData((), tuple(labels), notes)
    return RunContext(data, tokenizer, task, [], templates, initial, engine, federation)


def require_labels(task: TaskConfig) -> list[str]:
    """The names of the labels, which sites must agree on. Raises UserError where the experiment does not say them."""
    kind = find_kind(task.kind)
    if kind.finds_labels and task.labels is None:
        raise UserError("over sites the experiment must name the labels, in one order for all: task.labels: [neg, pos]")
    return kind.list_labels(task, {})
