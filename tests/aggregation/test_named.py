"""Means of named tensors, one dict per client."""

import pytest
import torch

from fedpeft.aggregation import mean_tensors

CLIENTS = [{"a": torch.full((2, 3), float(i)), "b": torch.full((4,), 10.0 * i, dtype=torch.bfloat16)} for i in range(3)]


def test_means_keep_names_shapes_and_dtypes():
    mean = mean_tensors(CLIENTS, torch.tensor([1.0, 0.0, 3.0]))
    assert list(mean) == ["a", "b"]
    assert torch.equal(mean["a"], torch.full((2, 3), 1.5))
    assert torch.equal(mean["b"], torch.full((4,), 15.0, dtype=torch.bfloat16))


@pytest.mark.parametrize("other", [{"a": torch.zeros(2, 3)}, {"a": torch.zeros(2, 3), "b": torch.zeros(5)}])
def test_clients_that_differ_are_refused(other):
    with pytest.raises(ValueError, match=r"differ in name or shape. Received: .*'b'"):
        mean_tensors([*CLIENTS, other])


def test_no_client_is_no_mean():
    with pytest.raises(ValueError, match="Received: none"):
        mean_tensors([])
