"""What a comparison concludes from the results of its runs; without the libraries that train."""

from collections import Counter
from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

from fedpeft.federation.deployment import ModelChoice
from fedpeft.runs.differences import compute_differences
from fedpeft.runs.targets import compute_target_costs, find_byte_front

FILE = "compare.json"
Results = dict[str, list[dict[str, Any]]]  # by label, one per seed


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
