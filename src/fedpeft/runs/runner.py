"""One run from start to result: rounds, evaluation, logs, checkpoints, export. Resume continues to the same bit."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fedpeft.acceleration import Acceleration
from fedpeft.callbacks import CallbackGroup, RunCallback, RunInfo, make_trackers
from fedpeft.config import Experiment
from fedpeft.engines import find_engine
from fedpeft.engines.base import Scores
from fedpeft.environment import keep_threads, read_peak_mib, reset_peak_memory
from fedpeft.errors import UserError
from fedpeft.federation.deployment import ModelChoice, choose_models, list_model_choices
from fedpeft.federation.method import Method
from fedpeft.federation.record import RoundRecord
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.runs.build import RunContext, build
from fedpeft.runs.export import make_card
from fedpeft.runs.failure_log import FailureLog
from fedpeft.runs.fingerprint import Fingerprint, take_fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.lock import lock_folder
from fedpeft.runs.model_card import write_model_cards
from fedpeft.runs.result import Deployment, compute_cross_matrix, summarise
from fedpeft.runs.spec import RunSpec
from fedpeft.runs.stored_checkpoint import RunCheckpoint


@keep_threads()
def start(
    spec: RunSpec,
    path: Path,
    callback: RunCallback,
    export: bool = True,
    accelerations: Sequence[Acceleration] | None = None,
    position: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Runs in the new folder `path`; returns the result. `export` writes adapters and keeps the checkpoint;
    `accelerations` are those that other runs share; `position` is its number among so many runs.

    Nothing is written before model and data are found to be in order, and nothing stays where the first round fails.
    """
    RunFolder(path).require_free()
    reset_peak_memory()
    if not find_engine(spec.experiment.engine).holds_clients:
        spec = spec.with_id()  # kept in the folder, so that a resumed run has the same
    context = build(spec, accelerations)
    fingerprint = take_fingerprint(context.data, spec.experiment.model)
    with lock_folder(path):
        folder = RunFolder.create(path, spec.as_dict(), fingerprint)
        try:
            return _run(_Rounds(folder, context, spec, fingerprint, callback), export, position)
        except UserError:
            folder.discard_if_empty()
            raise


@keep_threads()
def resume(
    path: Path,
    callback: RunCallback,
    export: bool = True,
    accelerations: Sequence[Acceleration] | None = None,
    position: tuple[int, int] = (1, 1),
    prepare: Callable[[Experiment], None] = lambda experiment: None,
) -> dict[str, Any]:
    """Continues a run from its last checkpoint; returns its result, at once if it has one.

    `prepare` gives the experiment what a program had given it: its settings only say that it did.

    Raises UserError where the run's data or model are no longer what it saw, or another process works on it.
    """
    folder = RunFolder(path)
    folder.require_no_links()
    spec = RunSpec.read(folder)
    if (result := folder.result) is not None:
        if not export and not folder.exported_clients:
            folder.drop_checkpoint()  # killed just before it did so itself; of a run that was exported it stays
        return result
    reset_peak_memory()
    prepare(spec.experiment)
    with lock_folder(path):
        if (result := folder.result) is not None:  # another process was faster
            return result
        context = build(spec, accelerations)
        fingerprint = take_fingerprint(context.data, spec.experiment.model)
        return _run(_Rounds(folder, context, spec, fingerprint, callback), export, position)


def _run(rounds: "_Rounds", export: bool, position: tuple[int, int]) -> dict[str, Any]:
    callbacks = rounds.callbacks
    with closing(rounds.context.engine), closing(FailureLog(rounds.folder.path)):
        rounds.restore()
        callbacks.on_run_start(rounds.describe(position))
        callbacks.raise_failure(rounds.describe_progress())
        try:
            rounds.run()
            result = _finish(rounds, export)
        except BaseException as error:  # trackers close their books after an interrupt, too
            callbacks.on_run_error(error)
            raise
        callbacks.on_run_end(result)
        callbacks.raise_failure(f"the run is finished, its result is in {rounds.folder.path}")
        return result


def _finish(rounds: "_Rounds", export: bool) -> dict[str, Any]:
    """Scores the models after the last round and writes what is kept of the run; returns its result."""
    folder, context, spec = rounds.folder, rounds.context, rounds.spec
    deployment = rounds.deploy()
    result = summarise(rounds.settings["experiment"], context, deployment, folder, rounds.seconds, read_peak_mib())
    if spec.is_crossed:
        clients = len(context.federation.evaluation_clients)
        rounds.callbacks.on_evaluation_start("cross", clients)
        result["cross"] = compute_cross_matrix(context, deployment.choices)
        rounds.callbacks.on_evaluation_end("cross", clients)
    if export:
        card = make_card(spec.experiment, context.data.labels)
        messages, clients_folder = context.federation.deployment_messages(), folder.make_clients_folder()
        context.engine.export(messages, clients_folder, card, deployment.choices)
        others = len(deployment.choices) - 1
        write_model_cards(folder, spec, context, deployment.choices, deployment.list_client_scores(), others)
    folder.write_result(result)
    if not export:
        folder.drop_checkpoint()
    return result


def count_evaluations(training: TrainingConfig, method: Method[Any], rounds: int, with_end: bool) -> int:
    """How often each client is scored in the first `rounds` rounds and, after the last, with its candidates: on its
    validation rows and then on its test rows."""
    validations = sum(_is_validated(training, round_) for round_ in range(1, rounds + 1))
    at_end = 2 * len(list_model_choices(training, method)) if with_end else 0
    return validations * len(_list_validated(training, method)) + at_end


def _list_validated(training: TrainingConfig, method: Method[Any]) -> list[ModelChoice]:
    """The models that are scored in every round that is validated."""
    candidates = list_model_choices(training, method) if training.validate_candidates else ()
    return ["received", *(choice for choice in candidates if choice != "received")]


def _is_validated(training: TrainingConfig, round_: int) -> bool:
    is_due = training.evaluate_every and round_ % training.evaluate_every == 0
    return bool(is_due) or round_ == training.rounds


class _Rounds:
    """The loop over rounds, with what it must remember: seconds so far, and where the logs stand."""

    def __init__(
        self, folder: RunFolder, context: RunContext, spec: RunSpec, fingerprint: Fingerprint, callback: RunCallback
    ) -> None:
        self.folder, self.context, self.spec = folder, context, spec
        self.callbacks = CallbackGroup([*make_trackers(spec.experiment.tracking), callback])
        self.settings, self.fingerprint = spec.as_dict(), fingerprint
        self.seconds = {"train": 0.0, "aggregate": 0.0, "evaluate": 0.0, "total": 0.0}

    def describe(self, position: tuple[int, int]) -> RunInfo:
        """The run as callbacks are told of it."""
        context, federation, label = self.context, self.context.federation, self.spec.label
        training = federation.training
        return RunInfo(
            folder=self.folder.path,
            label=label,
            method=self.spec.experiment.get_method_name(label),
            seed=self.spec.seed,
            experiment=self.spec.experiment,
            options=federation.method.options.model_dump(),
            metric=context.task.metric,
            clients=tuple(spec.id for spec in federation.evaluation_clients),
            clients_per_round=len(federation.select(1)),
            evaluations=count_evaluations(training, federation.method, training.rounds, with_end=True),
            evaluations_done=count_evaluations(training, federation.method, federation.round, with_end=False),
            completed=federation.round,
            notes=context.data.notes,
            number=position[0],
            count=position[1],
        )

    def describe_progress(self) -> str:
        """What is kept of a run that stops now, as the end of an error's line."""
        round_, path = self.context.federation.round, self.folder.path
        if round_ == 0:
            return "no round was completed"
        return f"round {round_} is kept: `fedpeft resume {path}` goes on from it"

    def restore(self) -> None:
        """Goes back to the last checkpoint, to the start without one. Raises UserError where it will not do."""
        self.folder.require_fingerprint(self.fingerprint)
        saved = self.spec.load_checkpoint(self.folder)
        if saved is not None:
            if saved.fingerprint not in (None, self.fingerprint.digest):
                raise self.folder.make_checkpoint_error("it is of a run on other data or another model")
            self._restore(saved)
        self.folder.cut_logs(saved)

    def _restore(self, saved: RunCheckpoint) -> None:
        engine = self.context.engine
        unknown = saved.clients.keys() - {client.id for client in engine.clients()}
        try:
            if unknown:
                raise ValueError(f"it is of other clients, received {sorted(unknown)[:3]}")
            saved.restore_server(self.context.federation)
        except ValueError as error:
            raise self.folder.make_checkpoint_error(str(error)) from error
        engine.restore(saved.round, {name: vars(client) for name, client in saved.clients.items()})
        self.seconds = saved.seconds.model_dump()

    def run(self) -> None:
        """Runs the rounds that are left; after each the logs first, then the checkpoint that vouches for them."""
        federation, training = self.context.federation, self.context.federation.training
        earlier, began = self.seconds["total"], time.perf_counter()
        while federation.round < training.rounds:
            record = federation.step(self.callbacks.on_client_end)
            is_due = _is_validated(training, federation.round)
            models = _list_validated(training, federation.method) if is_due else []
            validation = {model: self._evaluate("validation", model) for model in models}
            self.seconds["train"] += record.train_seconds
            self.seconds["aggregate"] += record.aggregate_seconds
            self.folder.append("metrics.jsonl", _make_metric_lines(record, validation))
            self.folder.append("timings.jsonl", [_make_timing_line(record)])
            self.seconds["total"] = earlier + time.perf_counter() - began
            self._checkpoint()
            self.callbacks.on_round_end(record, validation.get("received", {}))
            self.callbacks.raise_failure(self.describe_progress())

    def deploy(self) -> Deployment:
        """The model that each client deploys after the last round, chosen before the test split is read, once."""
        federation, before = self.context.federation, self.seconds["evaluate"]
        training = federation.training
        candidates = list_model_choices(training, federation.method)
        validation = {choice: self._evaluate("validation", choice) for choice in candidates}
        clients = self._require_scored(validation)
        choices = choose_models(training.deploy, clients, validation, self.context.task.metric)
        test = {choice: self._evaluate("test", choice) for choice in candidates}
        scored = self._require_scored(test)
        choices = {client: choice for client, choice in choices.items() if client in scored}
        self.seconds["total"] += self.seconds["evaluate"] - before
        validated = _list_validated(training, federation.method)  # the last round's are there
        others = {choice: by_client for choice, by_client in validation.items() if choice not in validated}
        lines = _make_score_lines(federation.round, "validation", others)
        self.folder.append("metrics.jsonl", lines + _make_score_lines(federation.round, "test", test))
        return Deployment(training.deploy, choices, validation, test)

    def _require_scored(self, by_choice: dict[ModelChoice, dict[str, Scores]]) -> list[str]:
        """The clients of which every candidate has scores: over a network one may be gone. Raises UserError."""
        clients = [spec.id for spec in self.context.federation.evaluation_clients]
        scored = [client for client in clients if all(client in scores for scores in by_choice.values())]
        if not scored:
            raise UserError(f"no client could be scored; `fedpeft resume {self.folder.path}` tries again")
        return scored

    def _checkpoint(self) -> None:
        federation = self.context.federation
        tree = {
            "round": federation.round,
            "seconds": self.seconds,
            "state": federation.state,
            "standings": federation.standings,
            "clients": self.context.engine.save(federation.round),
            "settings": self.settings,
            "fingerprint": self.fingerprint.digest,
        }
        self.folder.save_checkpoint(tree)

    def _evaluate(self, split: str, choice: ModelChoice) -> dict[str, Scores]:
        clients = len(self.context.federation.evaluation_clients)
        self.callbacks.on_evaluation_start(split, clients)
        began = time.perf_counter()
        scores = self.context.federation.evaluate(split, choice)
        self.seconds["evaluate"] += time.perf_counter() - began
        self.callbacks.on_evaluation_end(split, clients)
        return scores


def _make_metric_lines(record: RoundRecord, validation: dict[ModelChoice, dict[str, Scores]]) -> list[dict[str, Any]]:
    trained = [record.describe_client(client) for client in sorted(record.bytes_down)]
    return trained + record.describe_server() + _make_score_lines(record.round, "validation", validation)


def _make_score_lines(round_: int, split: str, scores: dict[ModelChoice, dict[str, Scores]]) -> list[dict[str, Any]]:
    return [
        {"round": round_, "split": split, "model": model, "client": client, **values}
        for model, by_client in scores.items()
        for client, values in by_client.items()
    ]


def _make_timing_line(record: RoundRecord) -> dict[str, Any]:
    return {
        "round": record.round,
        "train_seconds": round(record.train_seconds, 4),
        "aggregate_seconds": round(record.aggregate_seconds, 4),
        "peak_memory_mib": round(read_peak_mib(), 1),
        "client_seconds": {client: round(s, 4) for client, s in sorted(record.client_seconds.items())},
    }
