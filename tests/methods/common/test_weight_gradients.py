"""Sketches of frozen weights' gradients against autograd's own, of weights that do train."""

import copy
import math

import pytest
import torch
from helpers.local_clients import CrossEntropy, make_classifier
from peft import get_peft_model
from transformers.pytorch_utils import Conv1D

from fedpeft.acceleration import optimise_forward_
from fedpeft.acceleration.checkpointing import set_checkpointing_
from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.methods.common.weight_gradients import WeightGradients, draw_module_matrices, name_sketches

PREFIX = "base_model.model."


def make_batches():
    draw = torch.Generator().manual_seed(3)
    for seed in range(2):
        ids = torch.randint(3, 60, (4, 9), generator=draw)
        mask = torch.ones_like(ids)
        mask[0, 3:] = mask[1, 5:] = 0
        yield {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, seed])}


def sum_dense_gradients(plain, modules):
    """dL/dW (d_out, d_in) summed over the batches, by module."""
    dense = copy.deepcopy(plain).requires_grad_(True)
    holder = type("Holder", (), {"model": dense})()
    for batch in make_batches():
        CrossEntropy().losses(holder, batch).mean().backward()
    result = {}
    for module in modules:
        layer = dense.get_submodule(module.removeprefix(PREFIX))
        result[module] = layer.weight.grad.T if isinstance(layer, Conv1D) else layer.weight.grad
    return result


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("form", ["plain", "optimised", "checkpointed"])
def test_sketches_are_those_of_the_dense_gradients(architecture, form):
    plain = make_classifier(architecture)
    model = AdaptedModel(get_peft_model(copy.deepcopy(plain), make_lora_config(plain, 3, 6, has_core=True)))
    if form == "optimised":
        optimise_forward_(model)
    set_checkpointing_(model.base, form == "checkpointed")
    gradients = WeightGradients(model, seed=7)
    with gradients.observe():
        for batch in make_batches():
            CrossEntropy().losses(model, batch).mean().backward()
    sketches, dense = gradients.read_mean(2), sum_dense_gradients(plain, model.get_dimensions())
    for module, (d_out, d_in) in model.get_dimensions().items():
        omega, psi = draw_module_matrices(module, d_out, d_in, 3, 7)
        right, left = (sketches[name] for name in name_sketches(module))
        expected = dense[module] / 2
        assert float(expected.norm()) > 0
        scale = float(expected.norm()) * math.sqrt(d_in)
        torch.testing.assert_close(right, expected @ omega, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(left, psi @ expected, rtol=0, atol=1e-5 * scale)
    before = gradients.read_mean(2)
    CrossEntropy().losses(model, batch).mean().backward()
    assert all(torch.equal(before[name], t) for name, t in gradients.read_mean(2).items())  # outside nothing counts
