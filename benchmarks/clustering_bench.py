"""What one clustering costs the server: seconds per round, against the published code's way.

    python benchmarks/clustering_bench.py

Clients in three planted groups; features are a head of 2 x 768 (1,536 numbers) or sketches of 36 modules (576). The
number of clusters is given (cold: the first round; warm: a later one, features drifted) or found (auto: once a run).
The published code fits a full covariance to the raw features from scratch; that is timed once, at 50 clients. One
thread, 5 repeats. Writes results/clustering_bench.json.
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fedpeft.aggregation import fit_responsibilities
from fedpeft.environment import describe_environment

REPEATS, GROUPS = 5, 3


def planted(clients: int, width: int, seed: int) -> tuple[torch.Tensor, list[int]]:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(GROUPS, width, generator=draw)
    truth = [k % GROUPS for k in range(clients)]
    return centres[truth] + torch.randn(clients, width, generator=draw), truth


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> None:
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 1)  # seconds are of a machine that may do other work too
    rows = []
    for clients in (50, 1000):
        for feature, width in (("head", 1536), ("update", 576)):
            cold, warm, auto, index = [], [], [], []
            for seed in range(REPEATS):
                features, truth = planted(clients, width, seed)
                seconds, shares = timed(partial(fit_responsibilities, features, GROUPS, None, seed=seed))
                cold.append(seconds)
                drifted = features + 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))
                seconds, shares = timed(partial(fit_responsibilities, drifted, GROUPS, shares, seed=seed))
                warm.append(seconds)
                seconds, found = timed(partial(fit_responsibilities, features, "auto", None, seed=seed))
                auto.append(seconds)
                index.append(min(adjusted_rand_score(truth, s.argmax(1).tolist()) for s in (shares, found)))
            ways = {"cold": cold, "warm": warm, "auto": auto}
            row = {"clients": clients, "feature": feature, **ways, "rand_index": index}
            rows.append(row)
            spread = ", ".join(f"{w} {median(s):.3f} s ({min(s):.3f}-{max(s):.3f})" for w, s in ways.items())
            print(f"{clients:5d} clients, {feature:6s} {spread}, least Rand index {min(index):.2f}")
    features, truth = planted(50, 1536, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, labels = timed(lambda: GaussianMixture(GROUPS, random_state=0).fit_predict(features.double().numpy()))
    published = {"clients": 50, "seconds": seconds, "rand_index": adjusted_rand_score(truth, labels)}
    print(f"   50 clients, full covariance on the raw head: {seconds:.2f} s, Rand index {published['rand_index']:.2f}")
    record = {"repeats": REPEATS, "groups": GROUPS, "rows": rows, "published": published}
    record |= {"load_before": load, "environment": describe_environment()}
    target = Path(__file__).with_name("results") / "clustering_bench.json"
    target.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
