"""Ranks of methods over several data sets."""

from collections.abc import Mapping
from statistics import mean

from scipy.stats import rankdata


def average_ranks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean rank of every method over data sets, 1 the best, the best method first.

    `scores` are by data set, then by method; equal scores share the mean of their ranks (Demsar, JMLR 7, 2006). Only
    methods that every data set has are ranked, among themselves.
    """
    if not scores:
        return {}
    methods = [name for name in next(iter(scores.values())) if all(name in own for own in scores.values())]
    by_data_set = [rankdata([-own[name] for name in methods]) for own in scores.values()]
    ranks = {name: mean(float(own[i]) for own in by_data_set) for i, name in enumerate(methods)}
    return dict(sorted(ranks.items(), key=lambda entry: entry[1]))
