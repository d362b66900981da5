"""What compare.json says of every pair of methods."""

from fedpeft.analysis.paired import estimate_difference, pair_scores
from fedpeft.runs.differences import compute_differences


def make_run(seed, **scores):
    by_client = {client: {"pearson": score, "loss": 1.0} for client, score in scores.items()}
    return {"seed": seed, "metric": "pearson", "test_by_client": {"deployed": by_client, "received": {}}}


def test_every_pair_once_first_minus_second_of_the_deployed_models():
    results = {
        "fedit": [make_run(0, a=0.5, b=0.5), make_run(1, a=0.5, b=0.5)],
        "local": [make_run(0, a=0.4, b=0.6), make_run(1, a=0.3, b=0.5)],
        "late": [make_run(9, a=0.4)],
    }
    (difference,) = compute_differences(results)  # "late" shares no seed
    assert (difference["first"], difference["second"], difference["seeds"], difference["pairs"]) == (
        "fedit", "local", 2, 4,
    )  # fmt: skip
    expected = estimate_difference(
        pair_scores(
            {0: {"a": 0.5, "b": 0.5}, 1: {"a": 0.5, "b": 0.5}}, {0: {"a": 0.4, "b": 0.6}, 1: {"a": 0.3, "b": 0.5}}
        )
    )
    assert (difference["mean"], difference["low"], difference["high"]) == (expected.mean, expected.low, expected.high)
    assert difference["crosses_zero"] == expected.crosses_zero


def test_clients_without_a_number_and_results_without_clients_are_left_out():
    assert compute_differences({"a": [make_run(0, x=None, y=0.5)], "b": [make_run(0, x=0.1, y=0.5)]})[0]["pairs"] == 1
    assert compute_differences({"a": [{"seed": 0, "metric": "m"}], "b": [make_run(0, x=0.1)]}) == []
