"""Several methods over several seeds, with learning rates chosen on validation, as one table. Resumable.

Every run has a folder of its own, `<label>/lr<rate>-seed<seed>`; a finished one is never run again, a broken-off one
is resumed. Where a method gives a list of learning rates, each is tried with the first seed and the best personal
validation score of the last round wins, of equal ones that of the least validation loss; the test split plays no part
in it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedpeft.adapters import PrefixCache
from fedpeft.config import Experiment
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import write_atomically
from fedpeft.runs.environment import environment
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.runner import Observer, Settings, resume, start

Results = dict[str, list[dict[str, Any]]]  # by label, one per seed


def compare(
    experiment: Experiment,
    labels: Sequence[str],
    seeds: int,
    base: Path,
    out: Path,
    observer: Observer,
    planned: Callable[[str, int, int], None] = lambda label, done, total: None,
    scenario: str | None = None,
) -> dict[str, Any]:
    """Runs what is missing under `out` and returns the comparison; it is also written to `out/compare.json`.

    `planned` hears of each run as it begins: its label, how many came before it and how many there are.
    `scenario` is the name under which the experiment was changed; it is kept in the comparison.
    """
    labels = list(dict.fromkeys(labels))
    for label in labels:
        experiment.method_name(label)
    chosen_seeds = [experiment.seed + i for i in range(seeds)]
    grid = {label: experiment.learning_rates(label) for label in labels}
    cache = None if experiment.prefix_cache is None else experiment.prefix_cache.make()
    total = sum(len(rates) - 1 + seeds for rates in grid.values())
    done = 0

    def result(label: str, seed: int, lr: float | None) -> dict[str, Any]:
        nonlocal done
        planned(label, done, total)
        done += 1
        return finished(Settings(experiment, label, seed, lr, base), out, observer, cache)

    tuned: dict[str, dict[str, float]] = {}  # scores by rate
    best: dict[str, float | None] = {}
    for label, rates in grid.items():
        best[label] = rates[0]
        if len(rates) > 1:
            tried = {lr: _validation(result(label, chosen_seeds[0], lr)) for lr in rates}  # (score, -loss)
            done -= 1  # the winner's run with the first seed is asked for once more below
            best[label] = max(tried, key=tried.__getitem__)
            tuned[label] = {f"{lr:g}": score for lr, (score, _) in tried.items() if lr is not None}
    results: Results = {label: [] for label in labels}
    for seed in chosen_seeds:  # seed by seed, so that a table broken off still compares like with like
        for label in labels:
            results[label].append(result(label, seed, best[label]))
    comparison = {
        "name": experiment.name,
        "scenario": scenario,
        "environment": environment(),
        "seeds": chosen_seeds,
        "experiment": experiment.model_dump(),
        "tuned_on_validation": tuned,
        "rows": [row(label, runs) for label, runs in results.items()],
        "runs": results,
    }
    write_atomically(out / "compare.json", json.dumps(comparison, indent=1).encode())
    return comparison


def finished(settings: Settings, out: Path, observer: Observer, cache: PrefixCache | None = None) -> dict[str, Any]:
    """The result of one run under `out`: read, resumed or run. Raises UserError when other settings are there."""
    rate = settings.experiment.build_method(settings.label, settings.lr).options.lr
    path = out / settings.label / f"lr{rate:g}-seed{settings.seed}"
    folder = RunFolder(path)
    if not (path / "experiment.yaml").exists():
        return start(settings, path, observer, keep=False, cache=cache)
    if _without_workers(folder.settings) != _without_workers(settings.as_dict()):
        raise UserError(f"{path} holds a run of other settings; give another --out or remove it")
    return resume(path, observer, keep=False, cache=cache)


def _without_workers(kept: dict[str, Any]) -> dict[str, Any]:
    # Results do not depend on the number of workers: a comparison may go on with another.
    plain = json.loads(json.dumps(kept["experiment"]))
    return plain | {"workers": None}


def _validation(result: dict[str, Any]) -> tuple[float, float]:
    last = result["validation"][str(result["rounds"])]
    return last["by_client"], -last["loss"]


def row(label: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One method over its seeds: mean and standard deviation of the personal test score, and what it cost."""
    first = runs[0]

    def over(value: Callable[[dict[str, Any]], float]) -> dict[str, float | None]:
        values = [value(run) for run in runs]
        return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}

    return {
        "label": label,
        "method": first["method"],
        "metric": first["metric"],
        "lr": first["options"]["lr"],
        "personal": over(lambda run: run["test"]["personal"]["by_client"]),
        "worst_client": over(lambda run: run["test"]["personal"]["worst_client"]),
        "trained": over(lambda run: run["test"]["trained"]["by_client"]) if "trained" in first["test"] else None,
        "adapter_parameters": first["adapter_parameters"],
        "head_parameters": first["head_parameters"],
        "bytes_down": over(lambda run: run["bytes_down"]),
        "bytes_up": over(lambda run: run["bytes_up"]),
        "peak_memory_mib": max(run["peak_memory_mib"] for run in runs),
        "seconds": over(lambda run: run["seconds"]["total"]),
        "quarantined": sum(run["quarantined"] for run in runs),
    }
