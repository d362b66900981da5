"""A client that joins after training: an adapter for it from the server's state, without a new federation [ours].

The newcomer is sent what the method sends to a client it does not know, trains one local round on it, and is sent
what the method makes of its reply (`Method.admit`). The run it joins stays as it is, to the bit; the newcomer's
adapter stands beside the others. Of other clients' rows nothing is read: a text that it shares with them is not found.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedpeft.budgets.levels import joining_resources
from fedpeft.config import Experiment
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine, EngineSetup, ModelChoice, Scores
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import load_checkpoint
from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, Reply
from fedpeft.methods.fedreft import FedReftState
from fedpeft.methods.local import Local
from fedpeft.runs.build import RunContext, assemble, assign_to_clients, load_model
from fedpeft.runs.export import make_card, read_card
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.runner import RunSpec
from fedpeft.tasks.examples import SPLITS, FederatedData
from fedpeft.tasks.load import load_client, require_client_id


def join(run: Path, data: Path, client: str, epochs: int = 1) -> dict[str, Any]:
    """Writes `<run>/clients/<client>/adapter`, and returns the newcomer's scores on its own test rows, by model:

    `received` at once, `trained` by its local epochs, `personal` as exported, `alone` (the same steps from the common
    start) and, where clients differ, the `mean` of all. Raises UserError, before anything is written, where the run
    is not finished, keeps no checkpoint or shares nothing, or where the id or the rows will not do.
    """
    folder = RunFolder(run)
    settings, result = RunSpec.of(folder), folder.result
    if result is None:
        raise UserError(f"{run} is not finished; finish it first: fedpeft resume {run}")
    if not (run / "checkpoint.safetensors").is_file():
        raise UserError(f"{run} keeps no checkpoint (`fedpeft compare` drops them); `fedpeft run` makes a run to join")
    client = require_client_id(client, "--id")  # stripped: it names a folder
    if client in result["clients"] or (run / "clients" / client).exists():
        raise UserError(f"{run} has a client {client!r} already; give another --id")
    training = settings.experiment.training.model_copy(update={"local_epochs": epochs})
    experiment = settings.experiment.model_copy(update={"training": training, "workers": 1})
    built = _built(run, experiment, settings, result["clients"], data, client)
    try:
        scores = _joined(built, settings.label)
        card = make_card(experiment, built.data.labels)
        built.engine.export(built.federation.deployment_messages(), run / "clients", card)
    finally:
        built.engine.close()
    (own,) = built.data.clients
    rows = {split: len(getattr(own, split)) for split in SPLITS}
    return {
        "client": client,
        "method": result["method"],
        "epochs": epochs,
        "rows": rows,
        "metric": built.task.metric,
        "test": scores,
    }


def _built(
    run: Path, experiment: Experiment, settings: RunSpec, others: list[str], data: Path, client: str
) -> RunContext:
    """A federation of the newcomer alone, with the state and the round of the run."""
    if not data.exists():
        raise UserError(f"--data: no such file or folder: {data}")
    labels, seed = read_card(run, others[0]).labels, settings.seed
    try:
        rows = load_client(client, data, experiment.task, experiment.partition, labels, seed)
    except UserError as error:  # of a source that is not the experiment's
        raise UserError(str(error).replace("task.source", "--data", 1)) from error
    method = experiment.build_method(settings.label)
    model = load_model(experiment.model, experiment.task, len(labels), seed)
    allotted = (
        {}
        if method.pools_data
        else {client: joining_resources(assign_to_clients(experiment, method, others, model[0], seed))}
    )
    built = assemble(experiment, method, seed, FederatedData((rows,), tuple(labels), ()), model, allotted)
    tree = load_checkpoint(run / "checkpoint.safetensors")
    built.federation.state, built.federation.round = type(built.federation.state)(**tree["state"]), tree["round"]
    return built


def _joined(built: RunContext, label: str) -> dict[str, Scores]:
    """Moves the federation's state on by the newcomer's admission."""
    federation, (spec,) = built.federation, built.federation.evaluation_clients
    method, state = federation.method, federation.state
    message = Message(spec.id, federation.round + 1, method.send(state, spec))
    if not message.tensors:
        raise UserError(
            f"method {label!r}: its server holds nothing, so there is nothing to join; "
            "run a method whose clients share something"
        )
    scores = {"received": _score(built.engine, message, "personal")}
    if isinstance(state, FedReftState):
        scores["mean"] = _score(built.engine, replace(message, tensors=state.mean), "personal")
    scores["alone"] = _alone(built, message)
    federation.state = method.add_client(state, _reply(built.engine, message))
    scores["trained"] = _score(built.engine, message, "trained")
    scores["personal"] = federation.evaluate("test", "personal")[spec.id]
    return scores


def _alone(built: RunContext, message: Message) -> Scores:
    """Local training from the start that everyone had, with the joining client's examples, rate and order."""
    federation, method = built.federation, built.federation.method
    local = Local(Local.Options(lr=method.options.lr))  # the adapter is the template's
    client = replace(built.clients[0], local=ClientState())
    setup = EngineSetup(local, [client], built.templates, federation.training, federation.seed, 1, (), 1)
    engine = find_engine("local").make(setup)
    try:
        _reply(engine, replace(message, tensors={}))
        return _score(engine, message, "trained")
    finally:
        engine.close()


def _reply(engine: Engine, message: Message) -> Reply:
    (outcome,) = engine.train([message])
    if outcome.reply is None:
        raise UserError(f"client {message.client!r} cannot be trained: {outcome.failure}")
    return outcome.reply


def _score(engine: Engine, message: Message, which: ModelChoice) -> Scores:
    return engine.evaluate([message], "test", which)[message.client]
