"""Costs to targets of a whole comparison."""

import pytest

from fedpeft.runs.targets import compute_target_costs, find_byte_front


def make_run(seed, *scores):
    points = [
        {"round": i + 1, "score": score, "bytes": 10 * (i + 1), "client_seconds": 1.0 * (i + 1), "peak_memory_mib": 5.0}
        for i, score in enumerate(scores)
    ]
    return {"seed": seed, "curve": {"model": "received", "points": points}}


RESULTS = {
    "fedit": [make_run(0, 0.5, 0.6, 0.7), make_run(1, 0.4, 0.6, 0.5)],
    "local": [make_run(0, 0.7, 0.8), make_run(1, 0.3, 0.4)],
    "old": [{"seed": 0}],
}


def test_every_methods_final_score_is_a_target_seed_by_seed():
    costs = compute_target_costs(RESULTS)
    assert list(costs) == ["fedit", "local"] and costs["fedit"]["score"] == pytest.approx(0.6)
    own, other = (costs["fedit"]["methods"][label] for label in ("fedit", "local"))
    assert (own["reached"], own["round"]) == (2, 2.5)  # 0.7 in round 3; 0.5 is reached in round 2
    assert (other["seeds"], other["reached"], other["round"]) == (2, 1, 1.0)
    assert costs["local"]["methods"]["fedit"]["reached"] == 1  # 0.8 is never reached, 0.4 at once


def test_a_number_is_one_for_all_seeds():
    costs = compute_target_costs(RESULTS, 0.6)["0.6"]
    assert costs["score"] == 0.6 and costs["methods"]["fedit"]["round"] == 2
    assert costs["methods"]["local"]["reached"] == 1
    assert compute_target_costs({"old": [{"seed": 0}]}, 0.5) == {}


def test_the_front_is_of_bytes_down_and_up_and_the_deployed_score():
    def row(label, down, up, score):
        return {"label": label, "bytes_down": {"mean": down}, "bytes_up": {"mean": up}, "deployed": {"mean": score}}

    assert find_byte_front([row("a", 1, 9, 0.5), row("b", 9, 0, 0.6), row("c", 2, 2, 0.1)]) == ["b", "c"]
