"""The polar factor against the singular value decomposition."""

import pytest
import torch

from fedpeft.aggregation import polar


def conditioned(ratio: float, r: int = 4, d: int = 30, batch: int = 3) -> torch.Tensor:
    """(batch, r, d) float64 matrices whose singular values run from 1 down to `ratio`."""
    draw = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(batch, r, r, generator=draw, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(batch, d, r, generator=draw, dtype=torch.float64)).Q
    values = torch.logspace(0, torch.log10(torch.tensor(ratio)).item(), r, dtype=torch.float64)
    return (left * values) @ right.mT


@pytest.mark.parametrize("ratio", [0.9, 1e-2, 1e-4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_the_svd_without_its_singular_values(ratio, scale):
    matrix = scale * conditioned(ratio)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(polar(matrix), u @ vh, atol=1e-6)
    assert torch.allclose(
        polar(matrix) @ polar(matrix).mT, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-13
    )


def test_in_float32_rows_are_orthonormal_to_the_last_digits():
    rows = polar(conditioned(1e-3, r=16, d=500).float())
    assert rows.dtype == torch.float32
    assert torch.allclose(rows @ rows.mT, torch.eye(16).expand(3, 16, 16), atol=1e-6)


def test_orthonormal_rows_stay_as_they_are():
    rows = conditioned(1.0)
    assert torch.allclose(polar(rows), rows, atol=1e-14)


def test_no_other_orthonormal_rows_are_nearer():
    matrix = conditioned(0.3, batch=1)[0]
    nearest = float((polar(matrix) - matrix).norm())
    draw = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-1, 1.0):
        other = torch.linalg.qr((polar(matrix) + size * torch.randn(4, 30, generator=draw)).mT)
        rows = (other.Q * other.R.diagonal().sign()).mT
        assert nearest < float((rows - matrix).norm())


def test_a_mean_leaves_the_manifold_and_polar_brings_it_back():
    rows = conditioned(1.0, batch=5)
    mean = rows.mean(0)
    assert torch.linalg.svdvals(mean).max() < 0.9
    assert torch.allclose(torch.linalg.svdvals(polar(mean)), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.zeros(2, 5), torch.ones(2, 5), torch.rand(5, 2)])
def test_dependent_rows_are_refused(bad):
    with pytest.raises(ValueError, match=r"linearly independent rows\. Received"):
        polar(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_polar(bad):
    with pytest.raises(ValueError, match=r"finite values\. Received"):
        polar(torch.tensor([[1.0, bad, 0.0]]))
