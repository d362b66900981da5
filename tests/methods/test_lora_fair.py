"""LoRA-FAIR: B corrected towards the mean of the products, A and head as FedIT."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    SHAPES,
    build_method,
    get_product,
    is_close,
    make_lora_replies,
    mean_product,
    mean_tensor,
    start_lora,
)


@pytest.mark.parametrize("ridge", [0.01, 5.0])
@pytest.mark.parametrize("module", SHAPES)
def test_b_is_the_ridge_solution_and_a_the_mean(module, ridge):
    method, replies = build_method("lora_fair", ridge=ridge), make_lora_replies()
    state, _ = start_lora(method)
    after = method.aggregate(state, replies).tensors
    a, b = (mean_tensor(replies, f"{module}.lora_{factor}.weight") for factor in "AB")
    missing = mean_product(replies, module) / 2.0 - b @ a  # without the scale
    change = torch.linalg.solve(a @ a.T + ridge * torch.eye(3, dtype=torch.float64), (missing @ a.T).T).T
    assert is_close(after[f"{module}.lora_A.weight"], a)
    assert is_close(after[f"{module}.lora_B.weight"], b + change, 1e-4)
    assert is_close(after[HEAD], mean_tensor(replies, HEAD))


@pytest.mark.parametrize("module", SHAPES)
def test_it_is_nearer_to_the_mean_product_than_fedit(module):
    replies, distance = make_lora_replies(), {}
    for name in ("fedit", "lora_fair"):
        method = build_method(name)
        state, specs = start_lora(method)
        sent = method.send(method.aggregate(state, replies), specs[0])
        distance[name] = float((get_product(sent, module) - mean_product(replies, module)).norm())
    assert distance["lora_fair"] < 0.95 * distance["fedit"]


def test_the_servers_optimiser_steps_towards_the_corrected_mean():
    replies = make_lora_replies()
    plain, adam = build_method("lora_fair"), build_method("lora_fair", server="adam", server_lr=1e-4)
    state, _ = start_lora(plain)
    target, after = plain.aggregate(state, replies).tensors, adam.aggregate(state, replies).tensors
    for name, tensor in after.items():
        step, wanted = tensor - state.tensors[name], target[name] - state.tensors[name]
        assert torch.equal(step.sign()[wanted.abs() > 1e-2], wanted.sign()[wanted.abs() > 1e-2])
