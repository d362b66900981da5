"""Several methods over several seeds, with learning rates chosen on validation, as one table. Resumable."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedpeft.atomic_files import remove_unfinished, write_atomically
from fedpeft.callbacks import CallbackGroup, RunCallback
from fedpeft.config import Experiment
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.runs.build import load_model, require_startable
from fedpeft.runs.compare_results import FILE, compare_results
from fedpeft.runs.files import Files, report_os_errors
from fedpeft.runs.grid import RunGrid
from fedpeft.runs.lock import lock_folder
from fedpeft.runs.stored import StoredComparison
from fedpeft.tasks.load import load_task


def compare(
    experiment: Experiment,
    labels: Sequence[str],
    seeds: int,
    base: Path,
    out: Path,
    callback: RunCallback,
    scenario: str | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Runs what is missing under `out` and returns the comparison; it is also written to `out/compare.json`.

    `scenario` is the name under which the experiment was changed; it is kept in the comparison. `keep` has every
    run export its clients' adapters and keep its checkpoint, for `predict` and `join`. Raises UserError,
    before any run trains, where one that is there is of other settings, data or model, or another process writes here.
    """
    callbacks = CallbackGroup([callback])
    labels = list(dict.fromkeys(labels))
    grid = make_grid(experiment, labels, seeds, base, keep)
    grid.require_same_runs(out)
    if len(labels) > 1:  # of several, the last one's mistake would be found after the others' hours
        require_comparable(experiment, labels, base)
    with lock_folder(out):
        with report_os_errors(f"write to {out}", "check its permissions"):
            remove_unfinished(out)
        earlier = _read_earlier_labels(out, callbacks)
        results = grid.run(out, callbacks)
        comparison = {
            "name": experiment.name,
            "scenario": scenario,
            "environment": describe_environment(),
            "seeds": grid.seeds,
            "experiment": experiment.model_dump(),
            "tuned_on_validation": grid.tuned,
            "best_rate_at_edge": grid.edges,
            **compare_results(results, experiment.target),
            "runs": results,
        }
        if gone := ", ".join(label for label in earlier if label not in labels):
            callbacks.on_note(f"{out / FILE} no longer holds {gone}; their finished runs are still beside it")
        write_atomically(out / FILE, json.dumps(comparison, indent=1).encode())
    return comparison


def make_grid(experiment: Experiment, labels: Sequence[str], seeds: int, base: Path, keep: bool = False) -> RunGrid:
    """The runs of a comparison. Raises UserError for a label or a learning rate that will not do."""
    for label in labels:
        experiment.get_method_name(label)
    rates = {label: experiment.list_learning_rates(label) for label in labels}
    return RunGrid(experiment, rates, [experiment.seed + i for i in range(seeds)], base, keep)


def _read_earlier_labels(out: Path, callback: RunCallback) -> list[str]:
    """The labels of the comparison that is at `out` so far; of a damaged one, which is noted, none."""
    files = Files(out)
    if not files.has(FILE):
        return []
    try:
        return [row["label"] for row in files.read_json(FILE, StoredComparison, "it is written anew")["rows"]]
    except UserError as error:
        callback.on_note(str(error))
        return []


def require_comparable(experiment: Experiment, labels: Sequence[str], base: Path) -> None:
    """Raises UserError for a method, a learning rate, data or an adapter that will not do, before any has trained."""
    rates = {label: experiment.list_learning_rates(label) for label in labels}
    methods = {label: experiment.build_method(label, rates[label][0]) for label in labels}
    data = load_task(experiment.task, experiment.partition, experiment.seed, base)
    backbone, _ = load_model(experiment.model, experiment.task, len(data.labels), experiment.seed)
    for label, method in methods.items():
        try:
            require_startable(experiment, method, data, backbone)
        except UserError as error:
            raise UserError(f"methods.{label}: {error}") from error
