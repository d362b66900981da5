"""The check of R in replies, and the retraction."""

import pytest
import torch
from helpers.replies import are_equal, lora_tensors, reft_tensors

from fedpeft.aggregation import polar
from fedpeft.methods.common.orthonormal import find_not_orthonormal, retract_r


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("size", "is_wrong"), [(1e-5, False), (2e-4, False), (1e-2, True)])
def test_an_r_without_orthonormal_rows_is_named(layer, size, is_wrong):
    tensors, name = reft_tensors(0), f"m.layer.{layer}.reft_R"
    assert find_not_orthonormal(tensors) is None
    tensors[name] = (1 + size) * tensors[name]
    assert find_not_orthonormal(tensors) == (f"{name}: its rows are not orthonormal" if is_wrong else None)


def test_rows_that_are_not_orthogonal_are_found_too():
    tensors, name = reft_tensors(0), "m.layer.1.reft_R"
    tensors[name] = torch.nn.functional.normalize(tensors[name] + 0.1 * tensors[name].flip(1), dim=-1)
    assert find_not_orthonormal(tensors) == f"{name}: its rows are not orthonormal"


def test_other_adapters_have_no_r():
    assert find_not_orthonormal(lora_tensors(0)) is None
    assert are_equal(retract_r(lora_tensors(0)), lora_tensors(0))


def test_retraction_replaces_every_r_and_nothing_else():
    tensors = reft_tensors(0)
    bent = {name: 1.7 * t + 0.1 if name.endswith("reft_R") else t for name, t in tensors.items()}
    retracted = retract_r(bent)
    assert find_not_orthonormal(bent) and find_not_orthonormal(retracted) is None
    for name, tensor in bent.items():
        assert torch.equal(retracted[name], polar(tensor) if name.endswith("reft_R") else tensor)
