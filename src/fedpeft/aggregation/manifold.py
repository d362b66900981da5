"""The Stiefel manifold of matrices with orthonormal rows, which an average leaves."""

import torch
from torch import Tensor


class DependentRowsError(ValueError):
    """A matrix whose rows are linearly dependent has no one nearest matrix with orthonormal rows."""


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows, U V^T of the SVD: (..., r, d) -> same shape and dtype.

    Computed in float64 with r x r work: M = (M M^T)^(-1/2) M, refined once. Raises ValueError when a matrix is not
    finite, DependentRowsError (a ValueError) when its rows are linearly dependent.
    """
    wide = matrix.double()
    if not torch.isfinite(wide).all():
        raise ValueError("polar needs finite values. Received: nan or inf.")
    for _ in range(2):  # the second pass removes the rounding of the first
        values, vectors = torch.linalg.eigh(wide @ wide.mT)  # (..., r), (..., r, r)
        if (values[..., 0] <= 1e-12 * values[..., -1]).any():
            raise DependentRowsError(
                f"polar needs linearly independent rows. Received: rank-deficient, shape {tuple(matrix.shape)}."
            )
        wide = (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT @ wide
    return wide.to(matrix.dtype)
