"""Ranks over data sets."""

from fedpeft.analysis.ranks import average_ranks


def test_ranks_are_averaged_over_data_sets_the_best_method_first():
    scores = {
        "sst2": {"a": 0.9, "b": 0.8, "c": 0.7},
        "mrpc": {"a": 0.5, "b": 0.6, "c": 0.6},
    }
    assert average_ranks(scores) == {"b": 1.75, "a": 2.0, "c": 2.25}  # equal scores share the mean of their ranks
    assert list(average_ranks(scores)) == ["b", "a", "c"]


def test_only_methods_of_every_data_set_are_ranked():
    assert average_ranks({"sst2": {"a": 0.1, "b": 0.9, "x": 1.0}, "mrpc": {"b": 0.1, "a": 0.9}}) == {"a": 1.5, "b": 1.5}
    assert average_ranks({}) == {}
