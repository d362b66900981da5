"""The clients of a batch's rows, as groups of equal size."""

import pytest
import torch

from fedpeft.acceleration.row_groups import RowGroups

BATCHES = [
    ([0, 0, 1, 1], 2, ((0, 1), (1, 1))),
    ([2, 2, 2, 2, 0, 0], 2, ((2, 2), (0, 1))),
    ([0, 0, 0, 1], 1, ((0, 3), (1, 1))),
    ([0, 1, 0], 1, ((0, 1), (1, 1), (0, 1))),
    ([5] * 7, 7, ((5, 1),)),
]


@pytest.mark.parametrize(("clients", "size", "runs"), BATCHES)
def test_groups_are_as_large_as_they_can_be(clients, size, runs):
    groups = RowGroups.from_clients(clients)
    assert (groups.size, groups.runs) == (size, runs)
    assert groups.rows == len(clients) and groups.count == len(clients) // size
    assert groups.clients == set(clients)


@pytest.mark.parametrize("clients", [clients for clients, _, _ in BATCHES])
def test_each_group_gets_its_clients_tensor_padded_with_zeros(clients):
    groups = RowGroups.from_clients(clients)
    tensors = {client: torch.full((client + 1, 2), float(client + 1)) for client in set(clients)}
    expanded = groups.expand(tensors)
    assert expanded.shape == (groups.count, max(clients) + 1, 2)
    for group, client in enumerate(clients[:: groups.size]):
        assert torch.equal(expanded[group, : client + 1], tensors[client])
        assert not expanded[group, client + 1 :].any()


def test_a_client_without_a_tensor_gets_zeros():
    expanded = RowGroups.from_clients([0, 0, 1, 1, 0, 0]).expand({1: torch.ones(2, 3)})
    assert expanded.any(-1).any(-1).tolist() == [False, True, False]


def test_the_gradient_of_a_client_is_the_sum_over_its_groups():
    tensors = {client: torch.randn(client + 1, 2, dtype=torch.float64, requires_grad=True) for client in range(3)}
    weights = torch.randn(4, 3, 2, dtype=torch.float64)  # of the groups 2, 0, 2, 1
    (RowGroups.from_clients([2, 0, 2, 1]).expand(tensors) * weights).sum().backward()
    torch.testing.assert_close(tensors[2].grad, weights[0] + weights[2])
    torch.testing.assert_close(tensors[0].grad, weights[1, :1])
    torch.testing.assert_close(tensors[1].grad, weights[3, :2])


@pytest.mark.parametrize("shape", [(4, 3, 5), (12, 5), (4, 5), (8, 3, 5)], ids=["batch", "flat", "pooled", "2 beams"])
def test_tokens_of_a_group_are_those_of_its_rows(shape):
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    grouped = RowGroups.from_clients([0, 0, 1, 1]).group(x)
    assert grouped.shape == (2, x.numel() // 10, 5)
    assert torch.equal(grouped.reshape(shape), x)
    half = len(x) // 2
    assert torch.equal(grouped[0], x[:half].reshape(-1, 5)) and torch.equal(grouped[1], x[half:].reshape(-1, 5))
