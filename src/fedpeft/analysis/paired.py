"""Differences between two methods, paired by seed and client, with bootstrap intervals.

The difference is the mean over seeds of the mean over the clients that both methods scored with that seed. Scores of
one seed are not independent: they share the division of the data and the start. So the bootstrap has two stages
(Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8): seeds are drawn with replacement,
then within each drawn seed its clients, and the interval is that of the percentiles. What it can say:

- With one seed it is over clients alone and says nothing of other divisions of the data or other starts.
- With few seeds it is short, as every bootstrap of few draws: for normal differences of 8 clients that spread as widely
  between seeds as between clients, the interval of 95 % held the truth in 82, 86 and 91 % of 400 simulations with 3, 5
  and 10 seeds; where seeds differ by nothing but their clients, in 97 % and more.
- It is no correction for many comparisons, nor for having looked for the best method in the same scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_MOST_RESAMPLES, _LEAST_RESAMPLES = 10_000, 1_000
_MOST_DRAWS = 2e7  # of one interval: with thousands of clients fewer resamples do
_CELLS = 1_000_000  # drawn at once

Scores = Mapping[int, Mapping[str, float]]  # by seed, then by client
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean difference with its interval of 95 %, in the unit of the scores."""

    mean: float
    low: float
    high: float
    seeds: int
    pairs: int  # of one seed and client

    @property
    def crosses_zero(self) -> bool:
        """Whether the data do not tell which of the two methods is better."""
        return self.low <= 0 <= self.high

    def negate(self) -> "Interval":
        """The interval of the difference the other way round."""
        return Interval(-self.mean, -self.high, -self.low, self.seeds, self.pairs)


def pair_scores(first: Scores, second: Scores) -> list[Floats]:
    """First minus second by seed, each (clients,), over the clients that have a finite score of both."""
    differences = []
    for seed in sorted(first.keys() & second.keys()):
        own, others = first[seed], second[seed]
        values = np.array([own[client] - others[client] for client in sorted(own.keys() & others.keys())], np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            differences.append(values)
    return differences


def estimate_difference(differences: Sequence[Floats], seed: int = 0) -> Interval | None:
    """The mean of the differences, from `pair_scores`, with its interval; None where there is no pair.

    The same bits for the same differences and `seed`.
    """
    if not differences:
        return None
    mean = float(np.mean([values.mean() for values in differences]))
    low, high = np.quantile(_resample_means(differences, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), len(differences), sum(map(len, differences)))


def _resample_means(differences: Sequence[Floats], seed: int) -> Floats:
    """Means of resampled seeds and clients, (resamples,)."""
    draw = np.random.default_rng(seed)
    size = sum(map(len, differences))
    resamples = int(min(_MOST_RESAMPLES, max(_LEAST_RESAMPLES, _MOST_DRAWS // size)))
    seeds = draw.integers(len(differences), size=(resamples, len(differences)))
    means = np.empty(seeds.shape)
    for i, values in enumerate(differences):
        means[seeds == i] = _resample_clients(values, int((seeds == i).sum()), draw)
    return np.asarray(means.mean(1))


def _resample_clients(values: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Means of as many values drawn anew, (count,)."""
    step = max(1, _CELLS // len(values))
    parts = [
        values[draw.integers(len(values), size=(min(step, count - start), len(values)))].mean(1)
        for start in range(0, count, step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)
