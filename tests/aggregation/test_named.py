"""Means and mixes of named tensors, one dict per client."""

import pytest
import torch

from fedpeft.aggregation import mean_tensors, mixed_tensors

CLIENTS = [{"a": torch.full((2, 3), float(i)), "b": torch.full((4,), 10.0 * i, dtype=torch.bfloat16)} for i in range(3)]


def test_means_keep_names_shapes_and_dtypes():
    mean = mean_tensors(CLIENTS, torch.tensor([1.0, 0.0, 3.0]))
    assert list(mean) == ["a", "b"]
    assert torch.equal(mean["a"], torch.full((2, 3), 1.5))
    assert torch.equal(mean["b"], torch.full((4,), 15.0, dtype=torch.bfloat16))


def test_each_group_has_its_own_weights():
    mixed = mixed_tensors(CLIENTS, [["b"], ["a"]], torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]))
    assert list(mixed) == ["a", "b"]
    assert torch.equal(mixed["a"], torch.full((2, 3), 0.5))
    assert torch.equal(mixed["b"], CLIENTS[2]["b"])


@pytest.mark.parametrize("other", [{"a": torch.zeros(2, 3)}, {"a": torch.zeros(2, 3), "b": torch.zeros(5)}])
def test_clients_that_differ_are_refused(other):
    with pytest.raises(ValueError, match=r"differ in name or shape. Received: .*'b'"):
        mean_tensors([*CLIENTS, other])


@pytest.mark.parametrize("groups", [[["a"]], [["a", "b"], ["b"]], [["a", "b", "c"]]])
def test_a_tensor_is_in_one_group(groups):
    with pytest.raises(ValueError, match=r"in one group\. Received"):
        mixed_tensors(CLIENTS, groups, torch.full((len(groups), 3), 1 / 3))


def test_no_client_is_no_mean():
    with pytest.raises(ValueError, match="Received: none"):
        mean_tensors([])
