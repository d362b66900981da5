"""Differences between the methods of a comparison, paired by seed and client."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from fedpeft.analysis.paired import estimate_difference, pair_scores

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # results of runs by label, one per seed


def compute_differences(results: Results) -> list[dict[str, Any]]:
    """Every pair of methods: `first` minus `second`, the mean with its interval, as fractions; see `analysis.paired`.

    Of the deployed models' test scores. Pairs without a seed and client in common are left out.
    """
    scores = {label: _read_scores(runs) for label, runs in results.items()}
    differences = []
    for first, second in combinations(scores, 2):
        interval = estimate_difference(pair_scores(scores[first], scores[second]))
        if interval is not None:
            numbers = asdict(interval) | {"crosses_zero": interval.crosses_zero}
            differences.append({"first": first, "second": second, **numbers})
    return differences


def _read_scores(runs: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Scores by seed, then by client; a client without a number has none."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in runs:
        scores = run.get("test_by_client", {}).get("deployed", {})
        numbers = {client: own.get(run["metric"]) for client, own in scores.items()}
        by_seed[run["seed"]] = {client: number for client, number in numbers.items() if number is not None}
    return by_seed
