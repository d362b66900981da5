"""FedProx's term: its gradient, not where an optimiser goes with it."""

import pytest
import torch
from helpers.replies import TensorModel, lora_tensors

from fedpeft.methods.common.proximal import make_proximal_term


@pytest.mark.parametrize("mu", [0.1, 3.0])
def test_the_gradient_is_mu_times_the_distance_from_where_the_tensors_stood(mu):
    anchors = lora_tensors(0)
    model = TensorModel(anchors)
    names = model.names[1:4]
    term = make_proximal_term(model, names, mu)
    moved = lora_tensors(1)
    model.write(moved)
    value = term()
    value.backward()
    squares = sum(float((moved[name].double() - anchors[name].double()).square().sum()) for name in names)
    assert float(value.detach()) == pytest.approx(mu / 2 * squares, rel=1e-5)
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        if name in names:
            torch.testing.assert_close(parameter.grad, mu * (moved[name] - anchors[name]))
        else:
            assert parameter.grad is None


def test_it_is_zero_at_first_and_nothing_without_a_weight():
    model = TensorModel(lora_tensors(0))
    assert float(make_proximal_term(model, model.names, 0.5)().detach()) == 0
    assert make_proximal_term(model, model.names, 0) is None
