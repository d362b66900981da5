"""Recipes of local training: rates step by step, SGD's steps, clipped gradients; never where Adam went."""

import math

import pytest
import torch
from helpers.local_training import EXAMPLES, build, make_trainer

from fedpeft.federation import training as module
from fedpeft.federation.optimiser import compute_rate_factor, step_optimiser
from fedpeft.federation.training import train_locally
from fedpeft.federation.training_config import TrainingConfig


def list_factors(rounds=3, steps=4, **recipe):
    training = TrainingConfig(rounds=rounds, **recipe)
    return [compute_rate_factor(training, r, step, steps) for r in range(1, rounds + 1) for step in range(steps)]


def test_a_constant_rate_is_the_rate():
    assert list_factors() == list_factors(schedule_span="round") == [1.0] * 12


def test_a_schedule_over_the_run_goes_on_from_round_to_round():
    assert list_factors(schedule="linear") == pytest.approx([1 - i / 12 for i in range(12)])
    assert list_factors(schedule="cosine") == pytest.approx([(1 + math.cos(math.pi * i / 12)) / 2 for i in range(12)])


def test_a_schedule_over_a_round_begins_anew_in_each():
    assert list_factors(schedule="linear", schedule_span="round") == pytest.approx([1, 0.75, 0.5, 0.25] * 3)


def test_warm_up_rises_from_above_zero_to_the_rate_and_then_the_schedule_begins():
    assert list_factors(warmup_ratio=0.25) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 9)
    both = list_factors(schedule="linear", warmup_ratio=0.25)
    assert both == pytest.approx([0.25, 0.5, 0.75] + [1 - i / 9 for i in range(9)])
    assert list_factors(schedule_span="round", warmup_ratio=0.5)[:5] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1 / 3])


def test_after_the_last_round_the_rate_is_that_of_its_last_step():
    training = TrainingConfig(rounds=3, schedule="linear")
    last = compute_rate_factor(training, 3, 3, 4)
    assert 0 < compute_rate_factor(training, 4, 0, 4) == compute_rate_factor(training, 9, 2, 4) == last


@pytest.mark.parametrize(("schedule", "round_"), [("linear", 2), ("cosine", 1)])
def test_every_step_of_local_training_has_its_rate(monkeypatch, schedule, round_):
    rates = []
    monkeypatch.setattr(
        module, "step_optimiser", lambda optimiser, lr, limit: rates.append(lr) or optimiser.zero_grad()
    )
    training = TrainingConfig(rounds=2, local_epochs=2, batch_size=3, schedule=schedule, warmup_ratio=0.1)
    train_locally(make_trainer(build("lora"), training, round_=round_))  # 8 examples: 3 batches, twice
    assert rates == [1e-3 * compute_rate_factor(training, round_, step, 6) for step in range(6)]


def read(model):
    return torch.cat([p.detach().double().flatten().clone() for p in model.parameters()])


def take_steps(examples=EXAMPLES, **recipe):
    """Where local training in one batch a step goes, and the gradient of each step."""
    model, points, gradients = build("lora"), [], []

    def observe():
        points.append(read(model))
        gradients.append(torch.cat([p.grad.double().flatten().clone() for p in model.parameters()]))

    train_locally(make_trainer(model, TrainingConfig(batch_size=8, **recipe), examples=examples), observe=observe)
    return [*points, read(model)], gradients


def assert_close(vector, expected):
    assert (vector - expected).norm() <= 1e-3 * expected.norm() > 0  # the head is float32


def test_sgd_steps_along_the_gradient_times_the_rate():
    points, gradients = take_steps(optimiser="sgd", local_epochs=2, schedule="linear", schedule_span="round")
    for factor, before, after, gradient in zip((1, 0.5), points[:2], points[1:], gradients, strict=True):
        assert_close(after - before, -1e-3 * factor * gradient)


def test_momentum_adds_the_last_step():
    points, gradients = take_steps(optimiser="sgd", momentum=0.5, local_epochs=2)
    assert_close(points[2] - points[1], -1e-3 * (gradients[1] + 0.5 * gradients[0]))


def test_weight_decay_of_sgd_is_a_gradient_of_its_own():
    points, gradients = take_steps(optimiser="sgd", weight_decay=0.5)
    assert_close(points[1] - points[0], -1e-3 * (gradients[0] + 0.5 * points[0]))


def test_a_gradient_above_the_limit_is_scaled_down_to_it_and_one_below_is_left():
    _, (gradient,) = take_steps(optimiser="sgd")
    norm = float(gradient.norm())
    points, _ = take_steps(optimiser="sgd", max_grad_norm=norm / 4)
    assert_close(points[1] - points[0], -1e-3 * gradient / 4)
    points, _ = take_steps(optimiser="sgd", max_grad_norm=norm * 4)
    assert_close(points[1] - points[0], -1e-3 * gradient)


def test_the_norm_is_that_of_all_tensors_together():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimiser = torch.optim.SGD([{"params": [p]} for p in parameters], lr=9.0)
    for parameter, value in zip(parameters, (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([value])
    step_optimiser(optimiser, 1.0, 1.0)
    assert [float(p) for p in parameters] == pytest.approx([-0.6, -0.8], rel=1e-5)
    assert all(p.grad is None for p in parameters)


def test_the_optimiser_is_the_one_named_and_r_does_not_decay_under_either():
    for name, kind in (("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        trainer = make_trainer(build("reft"), TrainingConfig(optimiser=name, weight_decay=0.1))
        assert type(trainer._optimiser) is kind
        assert [group["weight_decay"] for group in trainer._optimiser.param_groups] == [0.1, 0.0]
