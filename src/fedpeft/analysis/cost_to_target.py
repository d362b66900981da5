"""What it costs until a method first reaches a score, and which methods no other one beats in both score and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any


@dataclass(frozen=True)
class CurvePoint:
    """Where a run stands after a round that was validated; what it cost adds up from the first round on.

    `bytes` are down and up of all clients, `client_seconds` the sum of the clients' rounds, `peak_memory_mib` the
    highest so far of the whole process.
    """

    round: int
    score: float
    bytes: float
    client_seconds: float
    peak_memory_mib: float | None


Curves = Mapping[int, Sequence[CurvePoint]]  # by seed


def find_first(curve: Sequence[CurvePoint], target: float) -> CurvePoint | None:
    """The first point whose score is at least the target; None where there is none."""
    return next((point for point in curve if point.score >= target), None)


def compute_cost(curves: Curves, targets: Mapping[int, float]) -> dict[str, Any]:
    """What reaching the targets, by seed, took: means over the seeds in which they were reached, the highest peak.

    `reached` of `seeds` says how many those are; with none of them the costs are None. A mean over fewer seeds than all
    is of the lucky ones: compare costs of methods only where both reached every target.
    """
    seeds = [seed for seed in sorted(targets) if curves.get(seed)]
    points = [point for seed in seeds if (point := find_first(curves[seed], targets[seed])) is not None]
    peaks = [point.peak_memory_mib for point in points if point.peak_memory_mib is not None]
    costs = {
        name: mean(asdict(point)[name] for point in points) if points else None
        for name in ("round", "bytes", "client_seconds")
    }
    return {"seeds": len(seeds), "reached": len(points), **costs, "peak_memory_mib": max(peaks, default=None)}


def find_front(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """Which (cost, score) points no other one matches or beats in both; a point that lacks one is never on it."""

    def is_beaten(cost: float, score: float) -> bool:
        return any(
            c is not None and s is not None and c <= cost and s >= score and (c, s) != (cost, score) for c, s in points
        )

    return [cost is not None and score is not None and not is_beaten(cost, score) for cost, score in points]
