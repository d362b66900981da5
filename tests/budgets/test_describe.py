"""Measurements and choices in words, from recorded figures."""

import math

import pytest

from fedpeft.budgets.choose import Budget
from fedpeft.budgets.describe import describe_fit, describe_probe, describe_resources
from fedpeft.budgets.fit import Fit
from fedpeft.budgets.measure import Measured, Workload
from fedpeft.budgets.memory import Point
from fedpeft.budgets.probe import Probe
from fedpeft.budgets.search_space import Candidate
from fedpeft.resources import ClientResources


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (ClientResources(8), "rank 8, top 6 of 6 layers"),
        (ClientResources(4, (5,)), "rank 4, top 1 of 6 layers"),
        (
            ClientResources(4, (4, 5), 0.25, 2, True),
            "rank 4, top 2 of 6 layers, density 0.25, micro-batch 2, checkpointing",
        ),
    ],
)
def test_resources_name_what_differs_from_the_defaults(resources, words):
    assert describe_resources(resources, 6) == words


def make_probe(shape, memory, time, device="cpu"):
    points = (Point(128, 16, ClientResources(8), 800.0, 0.25), Point(64, 4, ClientResources(8, (5,)), 640.0, 0.0625))
    return Probe(Workload("a model", 128, 16, device=device), shape, points, memory, time)


def test_a_probe_is_a_line_for_each_point_and_the_errors_of_the_model(shape, memory, time):
    probe = make_probe(shape, memory, time)
    model, meaning, heading, first, second, errors = describe_probe(probe)
    assert model == "a model: 22.0 M parameters, 6 blocks of width 384, sdpa attention, float32"
    assert "peak resident memory of the process" in meaning
    assert "libraries 490 MiB and weights 84 MiB" in meaning and "all included" in heading
    percents = [100 * (ratio - 1) for ratio in probe.compare_predictions()]
    for line, size, layers, figures, percent in (
        (first, "16 examples x 128 tokens", 6, "800 MiB 0.250 s a step", percents[0]),
        (second, "4 examples x 64 tokens", 1, "640 MiB 0.062 s a step", percents[1]),
    ):
        words = f"{size} rank 8, top {layers} of 6 layers {figures} predicted {percent:+.1f} %"
        assert line.split() == words.split()
    low, high = sorted(percents)
    assert errors.startswith(f"predictions are {low:+.1f} to {high:+.1f} %")
    assert errors.endswith("a margin of 3 % of training and 4 MiB included")


def test_on_a_gpu_memory_means_something_else(shape, memory, time):
    assert "peak allocated on the device" in describe_probe(make_probe(shape, memory, time, "cuda:1"))[1]


def test_a_fit_is_one_line_of_limits_choice_prediction_and_measurement(tiny_shape):
    candidate = Candidate(ClientResources(8, (0, 1), 1.0, 4), memory_mib=611.4, uplink_mib=0.02, seconds=0.1)
    fit = Fit(candidate, Measured(490.0, 590.0, 608.6, 0.0125, 2**20 // 8, 6722, tiny_shape))
    assert describe_fit(fit, Budget(650), 2) == (
        "650 MiB: rank 8, top 2 of 2 layers, micro-batch 4: 6,722 trained parameters, predicted 611 MiB, "
        "measured 609 MiB, 0.125 MiB up a round, 0.013 s a step"
    )
    assert describe_fit(fit, Budget(650, 0.5, 30), 2).startswith("650 MiB, 0.5 MiB up a round, 30 s a round: rank 8")
    assert describe_fit(fit, Budget(math.inf, 0.5), 2).startswith("0.5 MiB up a round: rank 8")
    assert describe_fit(fit, Budget(math.inf), 2).startswith("no limit: rank 8")
