"""Result files of runs and comparisons as `fedpeft` writes them, made without training."""

import json
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml


def make_result(label: str, seed: int, clients: list[str], rounds: int, **changes: Any) -> dict[str, Any]:
    """A result whose scores are drawn by label and seed."""
    draw = random.Random(f"{label}/{seed}")
    by_client = {
        choice: {c: {"accuracy": draw.random(), "loss": draw.random(), "examples": 9} for c in clients}
        for choice in ("deployed", "received", "trained")
    }
    test = {
        choice: {
            "by_client": mean(s["accuracy"] for s in scores.values()),
            "worst_client": min(s["accuracy"] for s in scores.values()),
            "loss": mean(s["loss"] for s in scores.values()),
        }
        for choice, scores in by_client.items()
    }
    return {
        "label": label,
        "method": label,
        "options": {"method": label, "lr": 0.005},
        "seed": seed,
        "rounds": rounds,
        "metric": "accuracy",
        "clients": clients,
        "rows": {client: {"train": 10 + i, "validation": 3, "test": 4} for i, client in enumerate(clients)},
        "label_fractions": {client: {"neg": 0.25, "pos": 0.75} for client in clients},
        "resources": {client: {"rank": 4, "density": 1.0, "checkpointing": False} for client in clients},
        "notes": [],
        "test": test,
        "test_by_client": by_client,
        "validation": {str(rounds): test["received"]},
        "adapter_parameters": 1000 + len(label),
        "head_parameters": 66,
        "bytes_down": 2048.0,
        "bytes_up": 1024.0 + seed,
        "quarantined": 0,
        "peak_memory_mib": 500.0,
        "seconds": {"train": 1.0, "aggregate": 0.5, "evaluate": 0.25, "total": 2.0},
    } | changes


def make_log(result: dict[str, Any], scalars: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Training and validation lines of every client and round."""
    draw = random.Random(f"{result['label']}/{result['seed']}/log")
    lines = []
    for round_ in range(1, result["rounds"] + 1):
        for client in result["clients"]:
            reported = {name: draw.random() for name in scalars}
            train = {"examples": 10, "loss": draw.random(), **reported, "round": round_, "split": "train"}
            lines.append(train | {"client": client, "bytes_down": 2048, "bytes_up": 1024})
        for client in result["clients"]:
            scores = {"accuracy": draw.random(), "loss": draw.random(), "examples": 9}
            lines.append({"round": round_, "split": "validation", "model": "received", "client": client, **scores})
    return lines


def write_run(folder: Path, result: dict[str, Any], log: list[dict[str, Any]], finished: bool = True) -> Path:
    """A run's folder; one that is not finished has no result."""
    folder.mkdir(parents=True)
    experiment = {
        "name": "planted",
        "seed": result["seed"],
        "model": {"name": "tiny"},
        "training": {"rounds": result["rounds"]},
        "methods": {result["label"]: result["options"]},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump({"base": "/", "experiment": experiment}))
    (folder / "environment.json").write_text(json.dumps({"processor": "a processor", "cores": 2}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if finished:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_comparison(
    folder: Path, labels: list[str], seeds: int, clients: list[str], rounds: int, scalars: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A comparison with the folders of its runs; returns what compare.json holds."""
    runs: dict[str, list[dict[str, Any]]] = {label: [] for label in labels}
    for label in labels:
        for seed in range(seeds):
            result = make_result(label, seed, clients, rounds)
            runs[label].append(result)
            write_run(folder / label / f"lr0.005-seed{seed}", result, make_log(result, scalars))
    comparison = {
        "name": "planted",
        "scenario": None,
        "environment": {"processor": "a processor"},
        "seeds": list(range(seeds)),
        "experiment": {"name": "planted", "model": {"name": "tiny"}, "training": {"rounds": rounds}},
        "tuned_on_validation": {labels[0]: {"0.005": 0.8, "0.05": None}},
        "rows": [{"label": label, "deployed": _average(results)} for label, results in runs.items()],
        "runs": runs,
    }
    (folder / "compare.json").write_text(json.dumps(comparison))
    return comparison


def _average(results: list[dict[str, Any]]) -> dict[str, float | None]:
    values = [result["test"]["deployed"]["by_client"] for result in results]
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}
