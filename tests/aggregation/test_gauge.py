"""An intervention is the same in every gauge; its average is not."""

import pytest
import torch
from torch import Tensor

from fedpeft.aggregation import align, align_factors, gauge

D, RANK = 20, 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed)).Q


def intervention(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.qr(draw(D, RANK, seed=seed)).Q.mT, draw(RANK, D, seed=seed + 1), draw(RANK, seed=seed + 2)


def turned(phi: tuple[Tensor, Tensor, Tensor], q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, w, b = phi
    return q @ r, q @ w, q @ b


def edit(phi: tuple[Tensor, Tensor, Tensor], h: Tensor) -> Tensor:
    """R^T (W h + b - R h), for rows h."""
    r, w, b = phi
    return (h @ w.mT + b - h @ r.mT) @ r


def test_a_turned_client_is_turned_back():
    phi = intervention(0)
    back = align(*turned(phi, orthogonal(RANK, 9)), reference=phi)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(back, phi, strict=True))


def test_aligning_keeps_the_edit():
    phi, h = intervention(0), draw(50, D, seed=5)
    aligned = align(*phi, reference=intervention(10))
    assert (aligned[1] - phi[1]).norm() > 1
    assert torch.allclose(edit(aligned, h), edit(phi, h), atol=1e-12)


def test_averaging_two_gauges_of_one_edit_ruins_it_and_aligning_first_does_not():
    phi, h = intervention(0), draw(50, D, seed=5)
    other = turned(phi, orthogonal(RANK, 9))
    naive = tuple((x + y) / 2 for x, y in zip(phi, other, strict=True))
    aligned = tuple((x + y) / 2 for x, y in zip(phi, align(*other, reference=phi), strict=True))
    size = edit(phi, h).norm()
    assert (edit(naive, h) - edit(phi, h)).norm() > 0.5 * size
    assert (edit(aligned, h) - edit(phi, h)).norm() < 1e-12 * size


def test_the_bias_takes_part_in_choosing_the_gauge():
    (r, w, b), reference = intervention(0), intervention(10)
    aligned = align(r, w, 100 * b, reference=(*reference[:2], 100 * reference[2]))
    assert torch.allclose(aligned[2] / aligned[2].norm(), reference[2] / reference[2].norm(), atol=0.02)


def test_no_orthogonal_matrix_brings_them_nearer():
    phi, reference = draw(3, RANK, 2 * D + 1, seed=1), draw(3, RANK, 2 * D + 1, seed=2)
    q = gauge(phi, reference)
    assert torch.allclose(q @ q.mT, torch.eye(RANK, dtype=torch.float64).expand(3, RANK, RANK), atol=1e-12)
    nearest = (q @ phi - reference).flatten(1).norm(dim=1)
    for seed in range(200):
        other = orthogonal(RANK, seed) if seed % 2 else q @ torch.linalg.matrix_exp(0.1 * skew(seed))
        assert (nearest <= (other @ phi - reference).flatten(1).norm(dim=1) + 1e-9).all()


def skew(seed: int) -> Tensor:
    a = draw(RANK, RANK, seed=seed)
    return a - a.mT


def test_groups_are_aligned_each_on_its_own():
    one, two = intervention(0), intervention(20)
    stacked = tuple(
        torch.stack([turned(one, orthogonal(RANK, 3))[i], turned(two, orthogonal(RANK, 4))[i]]) for i in range(3)
    )
    reference = tuple(torch.stack(pair) for pair in zip(one, two, strict=True))
    back = align(*(x.float() for x in stacked), reference=tuple(x.float() for x in reference))
    assert all(
        x.dtype == torch.float32 and torch.allclose(x, y.float(), atol=1e-6)
        for x, y in zip(back, reference, strict=True)
    )


@pytest.mark.parametrize("matched", ["A", "B"])
def test_a_rotated_product_stays_and_its_factor_is_the_nearest(matched):
    b, a = draw(9, RANK, seed=1), draw(RANK, D, seed=2)
    reference = draw(9, RANK, seed=3), draw(RANK, D, seed=4)
    left, right = align_factors((b, a), reference, matched)
    assert torch.allclose(left @ right, b @ a, atol=1e-12) and (left - b).norm() > 1
    for seed in range(50):
        q = orthogonal(RANK, seed)
        if matched == "A":
            assert (right - reference[1]).norm() <= (q @ a - reference[1]).norm()
        else:
            assert (left - reference[0]).norm() <= (b @ q.mT - reference[0]).norm()
