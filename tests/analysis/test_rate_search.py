"""The search for a learning rate: where it goes next, that it brackets the best, and what it does on failure."""

import math

import pytest

from fedpeft.analysis.rate_search import convert_to_rate, find_best, find_edge, propose_position


def search(curve, trials):
    scores = {}
    for _ in range(trials):
        position = propose_position(scores)
        assert position not in scores
        scores[position] = curve(position)
    return scores


def peak(at):
    return lambda position: (-abs(position - at),)


@pytest.mark.parametrize(
    ("at", "positions"),
    [
        (0.1, [0, 1, -1, 0.5, -0.5]),  # up, down, and then into the better gap, and the wider
        (-0.1, [0, 1, -1, -0.5, 0.5]),
        (3.1, [0, 1, 2, 3, 4]),  # climbs until the best lies inside
        (-2.1, [0, 1, -1, -2, -3]),
        (9, [0, 1, 2, 3, 4]),  # the budget ends at the edge
    ],
)
def test_the_grid_grows_until_the_best_lies_inside_and_then_closes_in(at, positions):
    assert list(search(peak(at), 5)) == positions


def test_the_best_comes_within_an_eighth_of_a_factor_with_enough_trials():
    for at in (-3.3, -0.4, 0.0, 0.7, 2.2):
        scores = search(peak(at), 14)
        assert abs(find_best(scores) - at) <= 1 / 8
        assert find_edge(scores, find_best(scores)) is None


def test_a_rate_at_which_training_fails_bounds_the_search_and_where_all_fail_it_goes_down():
    assert list(search(lambda position: None if position > 0.9 else (position,), 5)) == [0, 1, -1, -0.5, 0.5]
    assert list(search(lambda position: None, 4)) == [0, -1, -2, -3]
    assert list(search(lambda position: None if position > -2.5 else (1.0,), 6)) == [0, -1, -2, -3, -4, -3.5]


def test_of_equal_scores_the_nearest_to_the_start_is_the_best():
    scores = search(lambda position: (0.5, -1.0), 5)
    assert find_best(scores) == 0 and list(scores)[:3] == [0, 1, -1]
    assert find_best({0.0: (0.5, -2.0), 1.0: (0.5, -1.0)}) == 1  # the second item decides: the lower loss


def test_edges_and_rates():
    rates = {1e-3: None, 3e-3: None, 9e-3: None}
    assert [find_edge(rates, best) for best in rates] == ["lowest", None, "highest"]
    assert find_edge({1e-3: None}, 1e-3) is None
    assert convert_to_rate(1e-3, 3, 2) == 9e-3 and convert_to_rate(1e-3, 3, -0.5) == 0.0005774
    assert convert_to_rate(2e-3, 3, 0.5) == pytest.approx(2e-3 * math.sqrt(3), rel=1e-4)
