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
    assert are_equal(retract_r(lora_tensors(0), {}), lora_tensors(0))


def test_retraction_replaces_every_r_and_nothing_else():
    tensors = reft_tensors(0)
    bent = {name: 1.7 * t + 0.1 if name.endswith("reft_R") else t for name, t in tensors.items()}
    retracted = retract_r(bent, reft_tensors(1))
    assert find_not_orthonormal(bent) and find_not_orthonormal(retracted) is None
    for name, tensor in bent.items():
        assert torch.equal(retracted[name], polar(tensor) if name.endswith("reft_R") else tensor)


def test_an_r_whose_rows_became_dependent_stays_as_it_was():
    """The mean of R and -R is zero, and the same two clients may be drawn together again."""
    last, name = reft_tensors(1), "m.layer.0.reft_R"
    tensors = reft_tensors(0)
    tensors[name] = (tensors[name] - tensors[name]) / 2
    retracted = retract_r(tensors, last)
    assert torch.equal(retracted[name], last[name])
    assert torch.equal(retracted["m.layer.1.reft_R"], polar(tensors["m.layer.1.reft_R"]))
    assert torch.equal(retracted["m.layer.0.reft_W"], tensors["m.layer.0.reft_W"])


def test_values_that_are_not_finite_are_not_passed_over():
    tensors = reft_tensors(0)
    tensors["m.layer.0.reft_R"] = tensors["m.layer.0.reft_R"] * torch.nan
    with pytest.raises(ValueError, match="finite"):
        retract_r(tensors, reft_tensors(1))
