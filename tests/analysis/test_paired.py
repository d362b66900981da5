"""Paired differences: what is paired, what the interval is of, and that it is the same each time."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from fedpeft.analysis.paired import Interval, estimate_difference, pair_scores


def test_pairs_are_of_one_seed_and_client():
    first = {0: {"a": 0.9, "b": 0.5, "x": 1.0}, 1: {"a": 0.7}, 7: {"a": 1.0}}
    second = {1: {"a": 0.4, "b": 0.1}, 0: {"a": 0.8, "b": 0.75, "c": 0.2}}
    pairs = pair_scores(first, second)
    assert [values.tolist() for values in pairs] == [pytest.approx([0.1, -0.25]), pytest.approx([0.3])]
    assert pair_scores({0: {"a": float("nan")}}, {0: {"a": 0.1}}) == []


def test_the_mean_is_over_seeds_of_the_means_over_clients():
    interval = estimate_difference([np.array([0.1, 0.2, 0.3]), np.array([0.8])])
    assert interval.mean == pytest.approx((0.2 + 0.8) / 2)
    assert (interval.seeds, interval.pairs) == (2, 4)
    assert interval.low < interval.mean < interval.high and not interval.crosses_zero


def test_without_a_pair_there_is_no_interval():
    assert estimate_difference([]) is None


def test_with_one_seed_it_is_the_percentile_bootstrap_over_its_clients():
    values = np.random.default_rng(3).normal(0.2, 0.1, 40)
    interval = estimate_difference([values])
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_seeds_that_differ_make_it_wider_and_clients_of_one_seed_stay_together():
    """Clients alike within a seed: the interval is that of the seeds' means, as if every client were there once."""
    means = np.random.default_rng(5).normal(0.1, 0.1, 12)
    clustered = estimate_difference([np.full(50, value) for value in means])
    theirs = bootstrap((means,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert (clustered.low, clustered.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)
    mixed = estimate_difference([np.tile(means, 50)[i::12] for i in range(12)])
    pooled = estimate_difference([np.repeat(means, 50)])
    assert mixed.high - mixed.low == pytest.approx(clustered.high - clustered.low, rel=0.1)
    assert pooled.high - pooled.low < 0.2 * (clustered.high - clustered.low)  # 600 pairs that are 12 draws


def test_clients_are_drawn_within_a_seed():
    values = np.random.default_rng(1).normal(0, 1, (5, 8))
    interval = estimate_difference(list(values))
    spread = np.sqrt(values.mean(1).var() / 5 + values.var(1).mean() / 40)  # of both stages
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_it_is_the_same_each_time_and_turns_round():
    values = [np.array([0.1, -0.2, 0.3]), np.array([0.0, 0.4])]
    once, again = estimate_difference(values), estimate_difference([v.copy() for v in values])
    assert once == again != estimate_difference(values, seed=1)
    assert once.negate() == Interval(-once.mean, -once.high, -once.low, 2, 5) and once.negate().negate() == once
    assert once.crosses_zero and once.negate().crosses_zero
    assert Interval(0.1, 0.0, 0.2, 1, 1).crosses_zero and not Interval(0.1, 0.01, 0.2, 1, 1).crosses_zero


def test_thousands_of_clients_take_fewer_resamples():
    values = np.random.default_rng(0).normal(0.1, 1, 30_000)
    interval = estimate_difference([values, values])
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(60_000), rel=0.15)
