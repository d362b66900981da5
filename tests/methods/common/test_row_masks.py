"""Which rows matter, and which are trained."""

import pytest
import torch
from helpers.replies import SHAPES, TensorModel, lora_tensors, make_client

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.federation.message import Message
from fedpeft.methods.common.row_masks import (
    RowGradients,
    choose_rows,
    compute_row_energies,
    draw_rows,
    get_trained_rows,
)
from fedpeft.resources import ClientResources

Q, UP = SHAPES


def set_gradients(model, tensors):
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        parameter.grad = tensors.get(name)


def test_fisher_importance_is_the_sum_of_squared_gradients_of_a_row_of_b():
    model = TensorModel(lora_tensors(0))
    gradients = RowGradients(model)
    for seed in (1, 2):
        set_gradients(model, lora_tensors(seed))
        gradients.observe()
    set_gradients(model, {})  # a step without gradients adds nothing
    gradients.observe()
    importance = gradients.get_importance()
    assert importance.keys() == SHAPES.keys()
    for module in SHAPES:
        name = f"{module}.lora_B.weight"
        expected = sum(lora_tensors(seed)[name].double().square().sum(1) for seed in (1, 2))
        torch.testing.assert_close(importance[module].double(), expected)


def test_energy_importance_is_the_squared_norm_of_a_row_of_the_product():
    tensors = lora_tensors(0)
    energies = compute_row_energies(tensors)
    for module in SHAPES:
        product = tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()
        torch.testing.assert_close(energies[module].double(), product.square().sum(1))


def test_the_densitys_part_of_the_rows_is_chosen_by_importance():
    importance = {Q: torch.tensor([0.0, 5, 1, 4, 2, 3, 6]), UP: torch.arange(24.0)}
    rows = choose_rows(importance, 0.4)
    assert rows[Q].tolist() == [1, 3, 6] and rows[UP].tolist() == list(range(14, 24))


def test_a_model_trains_all_rows_but_of_masked_modules():
    rows = get_trained_rows(TensorModel(lora_tensors(0), {Q: torch.tensor([2, 5])}))
    assert rows[Q].tolist() == [2, 5] and rows[UP].tolist() == list(range(24))


def draw(density, delta=True, round_=1, client="c0"):
    model = TensorModel(lora_tensors(0), {UP: torch.arange(3)})
    a, b = get_frozen_delta_names(UP)
    sent = {a: torch.ones(1, 9), b: torch.arange(24.0)[:, None]} if delta else {}  # later rows have more energy
    resources = ClientResources(density=density)
    return draw_rows(model, Message(client, round_, sent), make_client(resources=resources, client=client))


@pytest.mark.parametrize(("density", "count"), [(0.5, 12), (0.3, 8), (0.1, 3), (0.08, 2)])
def test_half_of_the_rows_are_those_of_most_energy_and_half_are_drawn(density, count):
    best = set(range(24 - count // 2, 24))
    draws = [set(draw(density, round_=round_)[UP].tolist()) for round_ in range(1, 301)]
    assert all(len(rows) == count and best <= rows for rows in draws)
    assert set.union(*draws) == set(range(24))  # no row is left out for good
    assert len({frozenset(rows) for rows in draws}) > 5
    assert draw(density).keys() == {UP}


@pytest.mark.parametrize(("density", "delta"), [(0.04, True), (0.3, False)])
def test_one_row_alone_or_a_client_without_a_delta_has_all_drawn(density, delta):
    draws = [set(draw(density, delta, round_)[UP].tolist()) for round_ in range(1, 301)]
    assert set.union(*draws) == set(range(24)) and not set.intersection(*draws)


def test_the_draw_is_the_clients_own_and_the_rounds():
    assert torch.equal(draw(0.3)[UP], draw(0.3)[UP])
    assert not torch.equal(draw(0.3)[UP], draw(0.3, round_=2)[UP])
    assert not torch.equal(draw(0.3)[UP], draw(0.3, client="c1")[UP])
