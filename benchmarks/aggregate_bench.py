"""All leave-one-out medians from one Gram matrix, against one Weiszfeld run per client.

    python benchmarks/aggregate_bench.py [--quick] [--threads N]

Both sides get the same float32 points and start at the leave-one-out mean or a point. The independent side is
Weiszfeld as one would write it in vectorised torch, with its buffer allocated once. It is measured twice, because its
time is proportional to its iterations and that of the Gram matrix is not:

    fixed        both sides run FIXED iterations, as a careful caller would ask for;
    tolerance    both sides stop when no convex weight moves by more than TOLERANCE of itself: float32 allows no less.

The sides alternate, several times; the ratio is of neighbours. Where K independent runs would take minutes a few of the
K are timed and the time is multiplied by K over their number: `timed_clients` says how many.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedpeft.aggregation import combine, gram, leave_one_out_median_mix

FIXED, TOLERANCE, MOST = 50, 1e-5, 200
# clients, d, repeats, clients timed with fixed iterations, clients timed with a tolerance
SHAPES = [(10, 100_000, 5, 10, 10), (30, 300_000, 3, 6, 30), (100, 1_000_000, 3, 1, 4)]
QUICK = [(10, 20_000, 3, 10, 10), (30, 30_000, 2, 6, 30)]
RESULTS = Path(__file__).parent / "results" / "aggregate_bench.json"


def clients_after_training(clients: int, d: int) -> Tensor:
    """(clients, d) float32: a common start, drifts of different lengths, every tenth client ten times as far."""
    draw = torch.Generator().manual_seed(0)
    drift = torch.exp2(2 * torch.rand(clients, 1, generator=draw) - 1)  # (clients, 1)
    drift[::10] *= 10
    start = torch.randn(d, generator=draw)
    return start + 0.1 * drift * torch.randn(clients, d, generator=draw)


def from_one_gram(points: Tensor, iterations: int, tolerance: float) -> Tensor:
    """(clients, d)"""
    return combine(leave_one_out_median_mix(gram(points), None, iterations, tolerance), points)


def independent(points: Tensor, left_out: int, iterations: int, tolerance: float, buffer: Tensor) -> tuple[Tensor, int]:
    """(d,), and the iterations it took: Weiszfeld over all points but one; `buffer` is (clients, d)."""
    others = torch.ones(len(points)).index_fill(0, torch.tensor(left_out), 0.0)  # (clients,)
    mix = others / others.sum()
    taken = 0
    for _ in range(iterations):
        taken += 1
        median = mix @ points  # (d,)
        distance = torch.linalg.vector_norm(torch.sub(points, median, out=buffer), dim=1)
        pull = others / distance.clamp_min(1e-12)
        before, mix = mix, pull / pull.sum()
        if bool(((mix - before).abs() <= tolerance * mix).all()):
            break
    return mix @ points, taken


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(points: Tensor, repeats: int, count: int, iterations: int, tolerance: float) -> dict[str, Any]:
    """Alternate both sides `repeats` times; the independent one over `count` clients spread over all."""
    clients, d = points.shape
    chosen = [i * clients // count for i in range(count)]
    buffer = torch.empty_like(points)
    from_one_gram(points[:, :1000], 2, 0.0)  # warm up
    ours, theirs, difference, steps = [], [], 0.0, 0
    for _ in range(repeats):
        seconds, medians = timed(lambda: from_one_gram(points, iterations, tolerance))
        ours.append(seconds)
        seconds, alone = timed(lambda: [independent(points, k, iterations, tolerance, buffer) for k in chosen])
        theirs.append(seconds * clients / count)
        for k, (median, taken) in zip(chosen, alone, strict=True):
            difference = max(difference, float((medians[k] - median).norm() / median.norm()))
            steps = max(steps, taken)
    return {
        "clients": clients, "d": d, "repeats": repeats, "timed_clients": count, "iterations_independent": steps,
        "seconds_gram": spread(ours), "seconds_independent": spread(theirs),
        "ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
        "largest_relative_difference": difference,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version(), "system": platform.system()}  # fmt: skip


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, a second; nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = machine()
    print(*(f"{key} {value}" for key, value in where.items()), sep=", ")
    rows = []
    for clients, d, repeats, fixed, stopped in QUICK if arguments.quick else SHAPES:
        points = clients_after_training(clients, d)
        stops = (("fixed", fixed, FIXED, -1.0), ("tolerance", stopped, MOST, TOLERANCE))  # -1: never stop early
        for name, count, iterations, tolerance in stops:
            rows.append({"stop": name, **compare(points, repeats, count, iterations, tolerance)})
            print(report(rows[-1]), flush=True)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        settings = {"fixed_iterations": FIXED, "tolerance": TOLERANCE, "dtype": "float32"}
        RESULTS.write_text(json.dumps({"machine": where, "settings": settings, "rows": rows}, indent=2) + "\n")
        print(f"wrote {RESULTS.name}")


def report(row: dict[str, Any]) -> str:
    clients, count, ratio = row["clients"], row["timed_clients"], row["ratio"]
    part = "" if count == clients else f" (extrapolated from {count} of {clients} runs)"
    return (
        f"K {clients:>3}  d {row['d']:>9,}  {row['stop']:<9} {row['iterations_independent']:>3} iterations  "
        f"one Gram {row['seconds_gram']['median']:.3f} s  "
        f"independent {row['seconds_independent']['median']:.2f} s{part}  "
        f"ratio {ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})  "
        f"largest relative difference {row['largest_relative_difference']:.0e}"
    )


if __name__ == "__main__":
    main()
