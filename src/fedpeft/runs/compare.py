"""Several methods over several seeds, with learning rates chosen on validation, as one table. Resumable."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedpeft.atomic_files import remove_unfinished, write_atomically
from fedpeft.callbacks import CallbackGroup, RunCallback
from fedpeft.config import Experiment
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.federation.deployment import ModelChoice
from fedpeft.runs.build import load_model, require_startable
from fedpeft.runs.differences import compute_differences
from fedpeft.runs.files import Files, report_os_errors
from fedpeft.runs.grid import Results, RunGrid
from fedpeft.runs.lock import lock_folder
from fedpeft.runs.stored import StoredComparison
from fedpeft.runs.targets import compute_target_costs, find_byte_front
from fedpeft.tasks.load import load_task

FILE = "compare.json"


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


def compare_results(results: Results, target: float | None) -> dict[str, Any]:
    """What a comparison concludes from its runs: a row for each method, their differences, what a score costs."""
    rows = [summarise_method(label, runs) for label, runs in results.items()]
    return {
        "rows": rows,
        "differences": compute_differences(results),
        "cost_to_target": compute_target_costs(results, target),
        "accuracy_bytes_front": find_byte_front(rows),
    }


def summarise_method(label: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One method over its seeds: mean and standard deviation of the test score of the models that clients deploy, those
    of their candidates, and what it cost. `choices` counts who deploys which, over all seeds."""
    first = runs[0]
    choices = Counter(choice for run in runs for choice in run.get("deployment", {}).get("choices", {}).values())

    def summarise(value: Callable[[dict[str, Any]], float]) -> dict[str, float | None]:
        values = [value(run) for run in runs]
        return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}

    def summarise_candidate(model: ModelChoice) -> dict[str, float | None] | None:
        has_model = all(run["test"].get(model) for run in runs)
        return summarise(lambda run: run["test"][model]["by_client"]) if has_model else None

    return {
        "label": label,
        "method": first["method"],
        "metric": first["metric"],
        "lr": first["options"]["lr"],
        "deployed": summarise(lambda run: run["test"]["deployed"]["by_client"]),
        "worst_client": summarise(lambda run: run["test"]["deployed"]["worst_client"]),
        "received": summarise_candidate("received"),
        "trained": summarise_candidate("trained"),
        "choices": dict(sorted(choices.items())),
        "adapter_parameters": first["adapter_parameters"],
        "head_parameters": first["head_parameters"],
        "bytes_down": summarise(lambda run: run["bytes_down"]),
        "bytes_up": summarise(lambda run: run["bytes_up"]),
        "peak_memory_mib": max(run["peak_memory_mib"] for run in runs),
        "seconds": summarise(lambda run: run["seconds"]["total"]),
        "quarantined": sum(run["quarantined"] for run in runs),
        "client_rounds": sum(run.get("client_rounds", 0) for run in runs),  # 0: results of earlier versions
    }
