"""What the methods of a comparison cost until they first reach a score."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedpeft.analysis.cost_to_target import CurvePoint, Curves, compute_cost, find_front

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # results of runs by label, one per seed


def compute_target_costs(results: Results, target: float | None = None) -> dict[str, dict[str, Any]]:
    """By target: its score and each method's costs until its validation curve first reaches it.

    The targets are every method's own score in its last round, seed by seed, under its label, and `target` for all
    seeds under its number. Runs of earlier versions, which kept no curve, reach nothing.
    """
    curves = {label: _read_curves(runs) for label, runs in results.items()}
    targets = {label: {seed: curve[-1].score for seed, curve in own.items()} for label, own in curves.items() if own}
    if target is not None:
        targets[f"{target:g}"] = {seed: target for own in curves.values() for seed in own}
    return {
        name: {
            "score": sum(by_seed.values()) / len(by_seed),
            "methods": {label: compute_cost(own, by_seed) for label, own in curves.items() if own},
        }
        for name, by_seed in targets.items()
        if by_seed
    }


def find_byte_front(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of the methods that no other one matches or beats in both bytes and the deployed test score."""
    points = [(row["bytes_down"]["mean"] + row["bytes_up"]["mean"], row["deployed"]["mean"]) for row in rows]
    return [row["label"] for row, is_on in zip(rows, find_front(points), strict=True) if is_on]


def _read_curves(runs: Sequence[Mapping[str, Any]]) -> Curves:
    curves = {run["seed"]: [CurvePoint(**point) for point in run.get("curve", {}).get("points", [])] for run in runs}
    return {seed: curve for seed, curve in curves.items() if curve}
