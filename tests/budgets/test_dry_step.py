"""A dry step, taken in this process: what it trains, and on what."""

import json
import sys
from itertools import count

import pytest

from fedpeft.budgets import dry_step
from fedpeft.budgets.measure import ANSWER, REQUEST, DryStep, Measured, Workload
from fedpeft.resources import ClientResources


@pytest.fixture
def trained_on(monkeypatch):
    """The models and clients that dry steps train."""
    seen = []
    train = dry_step._train

    def record(model, client, batch_size, on_cuda):
        seen.append((model, client))
        return train(model, client, batch_size, on_cuda)

    monkeypatch.setattr(dry_step, "_train", record)
    return seen


@pytest.fixture
def answer(monkeypatch, capsys):
    """answer(request) -> what `main` prints last, as plain values."""

    def run(request: DryStep) -> dict:
        monkeypatch.setattr(sys, "argv", ["dry_step", REQUEST.dump_json(request).decode()])
        dry_step.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_the_configuration_asked_for_is_trained(tiny_model, trained_on):
    pytest.importorskip("fedpeft.acceleration.checkpointing")
    resources = ClientResources(4, (1,), 0.5, 2, True)
    measured = dry_step.take_dry_step(DryStep(Workload(str(tiny_model), 16, 4), resources, steps=2))
    ((model, client),) = trained_on
    assert client.spec.resources == resources
    assert measured.trained == sum(p.numel() for p in model.parameters()) == measured.shape.count_trained(resources)
    assert all(".layer.1." in name for name in model.names if "lora" in name)
    assert measured.uplink_bytes <= measured.shape.estimate_uplink_bytes(resources)
    assert (measured.shape.blocks, measured.shape.width, measured.shape.attention) == (2, 32, "sdpa")
    assert 0 < measured.libraries_mib <= measured.peak_mib


def test_examples_have_the_full_length_or_one_token_less_so_that_there_is_padding(tiny_model, trained_on):
    workload = Workload(str(tiny_model), 16, 4, num_labels=3)
    dry_step.take_dry_step(DryStep(workload, ClientResources(2), steps=3))
    ((_, client),) = trained_on
    examples = client.splits["train"]
    assert sorted(len(example.input_ids) for example in examples) == [15] * 6 + [16] * 6  # 3 batches of 4
    assert {example.label for example in examples} == {0, 1, 2}


@pytest.mark.parametrize(("steps", "seconds"), [(1, 1), (2, 10), (4, 100)])
def test_seconds_are_the_median_of_the_steps_after_the_first(tiny_model, monkeypatch, steps, seconds):
    """By a clock that stands at 0, 1, 11, 111, 1111: the first step, where libraries warm up, counts only if alone."""
    clock = (sum(10**i for i in range(read)) for read in count())
    monkeypatch.setattr(dry_step.time, "perf_counter", lambda: next(clock))
    request = DryStep(Workload(str(tiny_model), 8, 1), ClientResources(1, (1,)), steps)
    assert dry_step.take_dry_step(request).step_seconds == seconds


def test_main_prints_the_figures_as_json(answer, monkeypatch, tiny_shape):
    figures = Measured(490.0, 590.0, 612.5, 0.012, 9000, 370, tiny_shape)
    asked_for = []
    monkeypatch.setattr(dry_step, "take_dry_step", lambda request: asked_for.append(request) or figures)
    request = DryStep(Workload("a model", 16, 4), ClientResources(4, (1,)), 2)
    assert ANSWER.validate_python(answer(request)) == figures
    assert asked_for == [request]


def test_main_prints_a_backbone_that_is_not_there_as_the_user_s_mistake(answer, tmp_path):
    printed = answer(DryStep(Workload(str(tmp_path / "nowhere"), 16, 4), ClientResources(4), 2))
    assert list(printed) == ["mistake"] and "nowhere" in printed["mistake"]
