"""The leading singular directions of a sum of matrices that nobody holds whole, from sketches that can be averaged.

Single-pass randomised SVD (Tropp et al., SIAM J. Matrix Anal. Appl. 38, 2017): of G (d_out, d_in) only Y = G Omega and
Z = Psi G are kept, with Gaussian Omega (d_in, k) and Psi (l, d_out). Both are linear in G, so the mean of the clients'
sketches is the sketch of their mean. Exact for a G of rank at most k; where its singular values fall slowly, the
directions are near the leading ones only.
"""

import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors


def count_sketch_sizes(d_out: int, d_in: int, rank: int) -> tuple[int, int]:
    """k and l for a wanted rank: 2 rank + 1 and 2 k + 1, as far as the matrix has so many dimensions."""
    k = min(2 * rank + 1, d_out, d_in)
    return k, min(2 * k + 1, d_out)


def draw_sketch_matrices(d_out: int, d_in: int, rank: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Omega (d_in, k) and Psi (l, d_out), float32."""
    k, size = count_sketch_sizes(d_out, d_in, rank)
    return torch.randn(d_in, k, generator=draw), torch.randn(size, d_out, generator=draw)


def find_directions(right: Tensor, left: Tensor, psi: Tensor, rank: int) -> Factors:
    """U (d_out, rank) and V^T (rank, d_in), orthonormal, the leading singular directions of G, signs fixed.

    From its sketches `right` Y (d_out, k) and `left` Z (l, d_in); directions that G does not have are arbitrary.
    """
    q = torch.linalg.qr(right.double()).Q  # (d_out, k)
    inner = torch.linalg.pinv(psi.double() @ q) @ left.double()  # (k, d_in): G is near q inner
    u, _, v = torch.linalg.svd(inner, full_matrices=False)
    b, a = q @ u[:, :rank], v[:rank]
    sign = torch.where(b.gather(0, b.abs().argmax(0, keepdim=True))[0] < 0, -1.0, 1.0)
    return (b * sign).to(right.dtype), (a * sign[:, None]).to(left.dtype)
