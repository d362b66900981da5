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

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.config import Experiment, rename_old_keys
from fedpeft.environment import describe_environment
from fedpeft.errors import NoQuorum, UserError
from fedpeft.federation.checkpoint import write_atomically
from fedpeft.runs.build import load_model, require_startable
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.observer import NullObserver
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.load import load_task

Results = dict[str, list[dict[str, Any]]]  # by label, one per seed


def compare(
    experiment: Experiment,
    labels: Sequence[str],
    seeds: int,
    base: Path,
    out: Path,
    observer: NullObserver,
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
    if len(labels) > 1:  # of several, the last one's mistake would be found after the others' hours
        require_comparable(experiment, labels, base)
    shared: dict[int, tuple[Acceleration, ...]] = {}  # of the seed under way
    total = sum(len(rates) - 1 + seeds for rates in grid.values())
    done = 0

    def result(label: str, seed: int, lr: float | None) -> dict[str, Any]:
        nonlocal done
        planned(label, done, total)
        done += 1
        if seed not in shared:
            shared.clear()  # another seed divides the examples otherwise: nothing that a cache keeps would be found
            shared[seed] = make_accelerations(experiment.requested_accelerations())
        return get_or_run(RunSpec(experiment, label, seed, lr, base), out, observer, shared[seed])

    tuned: dict[str, dict[str, float | None]] = {}  # scores by rate, None where training failed
    best: dict[str, float | None] = {}
    for label, rates in grid.items():
        best[label] = rates[0]
        if len(rates) > 1:
            tried: dict[float | None, tuple[float, float]] = {}  # (score, -loss) by rate
            for lr in rates:
                try:
                    tried[lr] = _validation(result(label, chosen_seeds[0], lr))
                except NoQuorum as error:
                    observer.noted(f"{label}: the learning rate {lr:g} is out: {error}")
            if not tried:
                raise NoQuorum(f"methods.{label}.lr: training failed at every rate; give lower ones, received {rates}")
            done -= 1  # the winner's run with the first seed is asked for once more below
            best[label] = max(tried, key=tried.__getitem__)
            tuned[label] = {f"{lr:g}": tried[lr][0] if lr in tried else None for lr in rates}
    results: Results = {label: [] for label in labels}
    for seed in chosen_seeds:  # seed by seed, so that a table broken off still compares like with like
        for label in labels:
            results[label].append(result(label, seed, best[label]))
    comparison = {
        "name": experiment.name,
        "scenario": scenario,
        "environment": describe_environment(),
        "seeds": chosen_seeds,
        "experiment": experiment.model_dump(),
        "tuned_on_validation": tuned,
        "rows": [summarise_method(label, runs) for label, runs in results.items()],
        "runs": results,
    }
    earlier = out / "compare.json"
    if earlier.is_file():
        held = json.loads(earlier.read_text())["rows"]
        gone = [row["label"] for row in held if row["label"] not in labels]
        if gone:
            observer.noted(f"{earlier} no longer holds {', '.join(gone)}; their finished runs are still beside it")
    write_atomically(earlier, json.dumps(comparison, indent=1).encode())
    return comparison


def require_comparable(experiment: Experiment, labels: Sequence[str], base: Path) -> None:
    """Raises UserError for a method, a learning rate, data or an adapter that will not do, before any has trained."""
    rates = {label: experiment.learning_rates(label) for label in labels}
    methods = {label: experiment.build_method(label, rates[label][0]) for label in labels}
    data = load_task(experiment.task, experiment.partition, experiment.seed, base)
    backbone, _ = load_model(experiment.model, experiment.task, len(data.labels), experiment.seed)
    for label, method in methods.items():
        try:
            require_startable(experiment, method, data, backbone)
        except UserError as error:
            raise UserError(f"methods.{label}: {error}") from error


def get_or_run(
    settings: RunSpec, out: Path, observer: NullObserver, accelerations: Sequence[Acceleration] | None = None
) -> dict[str, Any]:
    """The result of one run under `out`: read, resumed or run. Raises UserError when other settings are there."""
    rate = settings.experiment.build_method(settings.label, settings.lr).options.lr
    path = out / settings.label / f"lr{rate:g}-seed{settings.seed}"
    folder = RunFolder(path)
    if not (path / "experiment.yaml").exists():
        return start(settings, path, observer, export=False, accelerations=accelerations)
    unlike = _difference(_without_workers(folder.settings), _without_workers(settings.as_dict()))
    if unlike:
        raise UserError(f"{path} holds a run of other settings ({unlike}); give another --out or remove it")
    return resume(path, observer, export=False, accelerations=accelerations)


def _without_workers(kept: dict[str, Any]) -> dict[str, Any]:
    # Results do not depend on the number of workers: a comparison may go on with another.
    plain = json.loads(json.dumps(kept["experiment"]))
    rename_old_keys(plain)
    return plain | {"workers": None}


def _difference(kept: Any, asked: Any, place: str = "") -> str:
    """The first setting that differs and both its values; "" where all are equal."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        found = (_difference(kept.get(k), asked.get(k), f"{place}.{k}".lstrip(".")) for k in (kept | asked))
        return next(filter(None, found), "")
    return "" if kept == asked else f"{place}: {kept} there, {asked} here"


def _validation(result: dict[str, Any]) -> tuple[float, float]:
    last = result["validation"][str(result["rounds"])]
    return last["by_client"], -last["loss"]


def summarise_method(label: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
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
        "client_rounds": sum(run.get("client_rounds", 0) for run in runs),  # 0: results of earlier versions
    }
