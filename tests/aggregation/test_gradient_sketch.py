"""Directions read off averaged sketches against the SVD of the dense mean."""

import pytest
import torch

from fedpeft.aggregation import count_sketch_sizes, draw_sketch_matrices, find_directions

D_OUT, D_IN, RANK = 40, 30, 3


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sketch(matrix, omega, psi):
    return matrix @ omega.double(), psi.double() @ matrix


def project(b, a):
    """The projections on what b and a span, which do not depend on signs."""
    return b @ b.mT, a.mT @ a


@pytest.mark.parametrize(("d_out", "d_in"), [(D_OUT, D_IN), (D_IN, D_OUT), (3, 50), (50, 3)])
def test_a_mean_of_low_rank_is_recovered_exactly(d_out, d_in):
    parts = [draw(d_out, 1, seed=i) @ draw(1, d_in, seed=10 + i) for i in range(3)]
    weights = torch.tensor([0.5, 0.3, 0.2])
    omega, psi = draw_sketch_matrices(d_out, d_in, RANK, torch.Generator().manual_seed(0))
    assert (omega.shape[1], len(psi)) == count_sketch_sizes(d_out, d_in, RANK)
    sketches = [sketch(part, omega, psi) for part in parts]
    right, left = (sum(w * s[i] for w, s in zip(weights, sketches, strict=True)) for i in (0, 1))
    b, a = find_directions(right, left, psi, RANK)
    mean = sum(w * part for w, part in zip(weights, parts, strict=True))
    u, _, v = torch.linalg.svd(mean, full_matrices=False)
    for own, expected in zip(project(b, a), project(u[:, :RANK], v[:RANK]), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(b @ (b.mT @ mean @ a.mT) @ a, mean, rtol=0, atol=1e-9)


def test_directions_are_orthonormal_in_order_and_their_signs_fixed():
    values = torch.tensor([9.0, 5.0, 2.0, 0.01, 0.005], dtype=torch.float64)
    u, v = (torch.linalg.qr(draw(d, 5, seed=d)).Q for d in (D_OUT, D_IN))
    matrix = u * values @ v.mT
    omega, psi = draw_sketch_matrices(D_OUT, D_IN, RANK, torch.Generator().manual_seed(0))
    b, a = find_directions(*sketch(matrix, omega, psi), psi, RANK)
    identity = torch.eye(RANK, dtype=torch.float64)
    torch.testing.assert_close(b.mT @ b, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(a @ a.mT, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close((b.mT @ matrix @ a.mT).diagonal(), values[:RANK], rtol=1e-3, atol=0)
    assert (b.gather(0, b.abs().argmax(0, keepdim=True)) > 0).all()
    again = find_directions(*sketch(matrix, omega, psi), psi, RANK)
    assert torch.equal(again[0], b) and torch.equal(again[1], a)


def test_the_same_run_draws_the_same_and_no_gradient_has_some_directions():
    first, second = (draw_sketch_matrices(9, 8, 2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    omega, psi = first
    b, a = find_directions(torch.zeros(9, omega.shape[1]), torch.zeros(len(psi), 8), psi, 2)
    torch.testing.assert_close(b.mT @ b, torch.eye(2))
    torch.testing.assert_close(a @ a.mT, torch.eye(2))
