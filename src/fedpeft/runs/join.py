"""A client that joins after training: an adapter for it from the server's state, without a new federation [ours].

The joining client is sent what the method sends to a client it does not know, trains one local round on it, and is
sent what the method makes of its reply (`Method.add_client`). The run it joins stays as it is, to the bit; its adapter
stands beside the others. Of other clients' examples nothing is read: a text that it shares with them is not found.
"""

from collections.abc import Callable
from dataclasses import replace
from os.path import exists
from pathlib import Path
from typing import Any

from fedpeft.budgets.levels import joining_resources
from fedpeft.config import ModelConfig
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine, EngineSetup, Scores
from fedpeft.environment import keep_threads
from fedpeft.errors import UserError
from fedpeft.federation.client import ClientState
from fedpeft.federation.deployment import ModelChoice, choose_models, list_model_choices
from fedpeft.federation.message import Message, Reply
from fedpeft.methods import find_method
from fedpeft.runs.build import RunContext, assemble, assign_to_clients, load_model
from fedpeft.runs.export import make_card, read_card
from fedpeft.runs.fingerprint import take_fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.lock import lock_folder
from fedpeft.runs.model_card import write_model_cards
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.examples import SPLITS, FederatedData
from fedpeft.tasks.items import require_client_id
from fedpeft.tasks.load import load_client
from fedpeft.tasks.sources import Tables

# It trains after the last round of the run, whose schedule is at its end, and what it trains is kept.
_FOR_ONE_ROUND = {"schedule_span": "round", "before_aggregation": True}


@keep_threads()
def join(
    run: Path,
    data: Path | Tables,
    client: str,
    epochs: int = 1,
    prepare: Callable[[ModelConfig], None] = lambda model: None,
) -> dict[str, Any]:
    """Writes `<run>/clients/<client>/adapter`; returns the joining client's scores on its own test examples, by model:

    `received` at once, `trained` by its local epochs, `answer` after the server's answer to that, `deployed` as
    exported (one of the last two, as the run's `training.deploy` says), `alone` (the same steps from the common start),
    and what else the method finds worth scoring, such as FedReFT's `mean` of all. `data` are a file, a folder of
    splits, or rows by split; `prepare` gives the run's model what a program had given it. Raises UserError, before
    anything is written, where the run is not finished, keeps no checkpoint or shares nothing, or where the id or the
    examples will not do.
    """
    folder = RunFolder(run)
    folder.require_no_links()
    spec, result = RunSpec.read(folder), folder.require_result()
    if not find_engine(spec.experiment.engine).holds_clients:
        raise UserError(
            f"{run} is a run over sites, where its clients' adapters are: nobody joins it from here; "
            "start a run with one site more"
        )
    client = require_client_id(client, "--id")  # stripped: it names a folder
    if client in result["clients"] or client in folder.exported_clients:
        raise UserError(f"{run} has a client {client!r} already; give another --id")
    prepare(spec.experiment.model)
    with lock_folder(run):
        return _join(folder, spec, result, data, client, epochs)


def _join(
    folder: RunFolder, spec: RunSpec, result: dict[str, Any], data: Path | Tables, client: str, epochs: int
) -> dict[str, Any]:
    checkpoint = spec.load_checkpoint(folder)
    if checkpoint is None:
        raise UserError(
            f"{folder.path} keeps no checkpoint (`fedpeft compare` drops them); `fedpeft run` makes a run to join"
        )
    training = spec.experiment.training.model_copy(update=_FOR_ONE_ROUND | {"local_epochs": epochs})
    # Whatever engine the run had, the joining client's rows are here, and results are the same.
    experiment = spec.experiment.model_copy(update={"training": training, "workers": 1, "engine": "local"})
    context = _build(folder, replace(spec, experiment=experiment), result["clients"], data, client)
    try:
        checkpoint.restore_server(context.federation)
    except ValueError as error:
        raise folder.make_checkpoint_error(str(error)) from error
    try:
        scores = _train_and_score(context, spec.label)
        choice = _choose_model(context)
        scores["deployed"] = scores["answer" if choice == "received" else choice]
        card, messages = make_card(experiment, context.data.labels), context.federation.deployment_messages()
        context.engine.export(messages, folder.make_clients_folder(), card, {client: choice})
        deployed = {client: "answer" if choice == "received" else choice}
        write_model_cards(folder, spec, context, deployed, {client: {"test": scores}}, len(result["clients"]))
    finally:
        context.engine.close()
    (own,) = context.data.clients
    return {
        "client": client,
        "method": result["method"],
        "epochs": epochs,
        "rows": {split: len(getattr(own, split)) for split in SPLITS},
        "metric": context.task.metric,
        "test": scores,
    }


def _build(folder: RunFolder, spec: RunSpec, others: list[str], data: Path | Tables, client: str) -> RunContext:
    """A federation of the joining client alone, before its first round. Raises UserError."""
    if isinstance(data, Path) and not exists(data):
        raise UserError(f"--data: no such file or folder: {data}")
    experiment, labels = spec.experiment, read_card(folder.path, others[0]).labels
    try:
        own = load_client(client, data, experiment.task, experiment.partition, labels, spec.seed)
    except UserError as error:  # of a source that is not the experiment's
        raise UserError(str(error).replace("task.source", "--data", 1)) from error
    joining = FederatedData((own,), tuple(labels), ())
    before, now = folder.fingerprint, take_fingerprint(joining, experiment.model)
    if before and (difference := before.find_model_difference(now)):
        raise UserError(f"{folder.path} was trained on another model: {difference}; put back what the run saw")
    method = spec.make_method()
    backbone = load_model(experiment.model, experiment.task, len(labels), spec.seed)
    resources = {}
    if not method.pools_data:
        assigned = assign_to_clients(experiment, method, others, backbone[0], spec.seed)
        resources[client] = joining_resources(assigned)
    return assemble(experiment, method, spec.seed, joining, backbone, resources=resources)


def _train_and_score(context: RunContext, label: str) -> dict[str, Scores]:
    """Trains the joining client for a round and adds it to the federation's state; scores by model."""
    federation, engine, (spec,) = context.federation, context.engine, context.federation.evaluation_clients
    method, state = federation.method, federation.state
    message = Message(spec.id, federation.round + 1, method.send(state, spec))
    if not message.tensors:
        raise UserError(
            f"method {label!r}: its server holds nothing, so there is nothing to join; "
            "run a method whose clients share something"
        )
    scores = {"received": _score(engine, message, "received")}
    for name, tensors in method.reference_models(state).items():
        scores[name] = _score(engine, replace(message, tensors=tensors), "received")
    scores["alone"] = _score_local_training(context, message)
    federation.state = method.add_client(state, _train(engine, message))
    scores["trained"] = _score(engine, message, "trained")
    scores["answer"] = federation.evaluate("test", "received")[spec.id]
    return scores


def _choose_model(context: RunContext) -> ModelChoice:
    """What the joining client deploys: the server's answer (received) or what its own training left."""
    federation, (spec,) = context.federation, context.federation.evaluation_clients
    training = federation.training
    candidates = list_model_choices(training, federation.method)
    validation = {choice: federation.evaluate("validation", choice) for choice in candidates}
    return choose_models(training.deploy, [spec.id], validation, context.task.metric)[spec.id]


def _score_local_training(context: RunContext, message: Message) -> Scores:
    """Scores after local training from the start that everyone had, with the client's examples, rate and order."""
    federation, (client,) = context.federation, context.clients
    local = find_method("local")
    method = local(local.Options(lr=federation.method.options.lr))  # the adapter is the template's
    fresh = replace(client, local=ClientState())
    setup = EngineSetup(method, [fresh], context.templates, federation.training, federation.seed, 1, (), 1)
    engine = find_engine("local").make(setup)
    try:
        _train(engine, replace(message, tensors={}))
        return _score(engine, message, "trained")
    finally:
        engine.close()


def _train(engine: Engine, message: Message) -> Reply:
    (outcome,) = engine.train([message])
    if outcome.reply is None:
        raise UserError(f"client {message.client!r} cannot be trained: {outcome.failure}")
    return outcome.reply


def _score(engine: Engine, message: Message, choice: ModelChoice) -> Scores:
    return engine.evaluate([message], "test", choice)[message.client]
