"""Costs until a score is first reached, and the front of score against cost."""

from fedpeft.analysis.cost_to_target import CurvePoint, compute_cost, find_first, find_front


def make_curve(*scores, peak=100.0):
    return [CurvePoint(i + 1, score, 10.0 * (i + 1), 2.0 * (i + 1), peak + i) for i, score in enumerate(scores)]


def test_the_first_round_that_reaches_it_counts_whatever_comes_after():
    curve = make_curve(0.2, 0.7, 0.5, 0.9)
    assert [find_first(curve, target).round for target in (0.1, 0.7, 0.71)] == [1, 2, 4]
    assert find_first(curve, 0.95) is None and find_first([], 0.0) is None


def test_costs_are_means_over_the_seeds_that_reach_their_target_and_the_highest_peak():
    curves = {0: make_curve(0.2, 0.7, 0.9), 1: make_curve(0.8, peak=300.0), 2: make_curve(0.1, 0.2)}
    cost = compute_cost(curves, {0: 0.7, 1: 0.8, 2: 0.5, 7: 0.1})
    assert cost == {
        "seeds": 3, "reached": 2, "round": 1.5, "bytes": 15.0, "client_seconds": 3.0, "peak_memory_mib": 300.0,
    }  # fmt: skip
    nowhere = compute_cost(curves, {0: 1.0})
    assert nowhere["reached"] == 0 and nowhere["bytes"] is None and nowhere["peak_memory_mib"] is None
    assert compute_cost({}, {0: 0.1})["seeds"] == 0


def test_on_the_front_is_what_no_other_matches_or_beats_in_both():
    points = [(1.0, 0.5), (2.0, 0.8), (2.0, 0.7), (3.0, 0.8), (0.5, 0.1), (None, 0.9), (1.0, None)]
    assert find_front(points) == [True, True, False, False, True, False, False]
    assert find_front([(1.0, 0.5), (1.0, 0.5)]) == [True, True]  # alike: neither beats the other
