"""What a model would do in an experiment, found by loading it and training one client once: nothing is written."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fedpeft.config import Experiment
from fedpeft.engines.base import Outcome
from fedpeft.environment import keep_threads, read_peak_mib, reset_peak_memory
from fedpeft.errors import UserError
from fedpeft.federation.message import Message, wire_size
from fedpeft.runs.build import RunContext, assemble, default_workers, load_model
from fedpeft.runs.result import count_parameters
from fedpeft.runs.runner import count_evaluations
from fedpeft.tasks.load import load_task
from fedpeft.units import MIB


@dataclass(frozen=True)
class MethodCheck:
    """One method: parameters that a client trains, MiB of one message, peak MiB of the process, and seconds that the
    run will take, about; `notes` are what a run would say at its start."""

    label: str
    adapter_parameters: int
    head_parameters: int
    message_mib: float
    peak_mib: float
    seconds: float
    notes: tuple[str, ...]


@keep_threads()
def check_model(experiment: Experiment, labels: Sequence[str], base: Path) -> Iterator[MethodCheck]:
    """Trains one client of middling size for one round with each method, over one backbone, and scores it once.

    Relative paths start at `base`. Raises UserError as a run does.
    """
    rates = {label: experiment.list_learning_rates(label)[0] for label in labels}
    data = load_task(experiment.task, experiment.partition, experiment.seed, base)
    backbone = load_model(experiment.model, experiment.task, len(data.labels), experiment.seed)
    for label in labels:
        reset_peak_memory()
        context = assemble(experiment, experiment.build_method(label, rates[label]), experiment.seed, data, backbone)
        try:
            if label == labels[0]:  # libraries warm up
                _check(experiment, label, context)
            yield _check(experiment, label, context)
        finally:
            context.engine.close()


def _check(experiment: Experiment, label: str, context: RunContext) -> MethodCheck:
    federation = context.federation
    middle = median(spec.examples for spec in federation.specs)
    spec = min(federation.specs, key=lambda spec: abs(spec.examples - middle))
    message = Message(spec.id, 1, federation.method.send(federation.state, spec))
    (outcome,) = context.engine.train([message])
    if outcome.reply is None:
        raise UserError(f"methods.{label}: client {spec.id!r} cannot be trained: {outcome.failure}")
    began = time.perf_counter()
    evaluated = federation.evaluation_clients[0]
    sent = Message(evaluated.id, 1, federation.method.send(federation.state, evaluated))
    context.engine.evaluate([sent], "validation", "received")
    evaluate_seconds = time.perf_counter() - began
    adapter, head = count_parameters(context)
    return MethodCheck(
        label,
        adapter,
        head,
        wire_size(message) / MIB,
        read_peak_mib(),
        _estimate(experiment, context, outcome, evaluate_seconds),
        context.data.notes,
    )


def _estimate(experiment: Experiment, context: RunContext, outcome: Outcome, evaluate_seconds: float) -> float:
    """Seconds of a whole run: as long for every client as for the one, by the workers that there are."""
    federation, training = context.federation, experiment.training
    clients, evaluated = len(federation.select(1)), len(federation.evaluation_clients)
    workers = min(experiment.workers or default_workers(experiment.model), clients)
    evaluations = count_evaluations(training, federation.method, training.rounds, with_end=True)
    return (training.rounds * clients * outcome.seconds + evaluations * evaluated * evaluate_seconds) / workers
