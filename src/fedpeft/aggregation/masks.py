"""Masked rows: which ones, how they are packed, and the mean over the clients that cover a row."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors


class MaskedUpdate(NamedTuple):
    """Some rows of an update B A."""

    rows: Tensor  # (m,) int64, ascending
    B: Tensor  # (m, r), those rows only
    A: Tensor  # (r, d_in)


def top_rows(importance: Tensor, density: float) -> Tensor:
    """The ceil(density d_out) rows of largest importance (d_out,), ascending int64; of equals the first; at least one.

    Raises ValueError for a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"Density is a share of the rows, in (0, 1]. Received: {density}.")
    count = max(1, math.ceil(density * len(importance) - 1e-9))  # 0.07 * 100 is above 7
    order = torch.sort(importance, descending=True, stable=True).indices
    return order[:count].sort().values.cpu()


def pack_rows(rows: Tensor, d_out: int) -> Tensor:
    """Rows (m,), ascending, as a bitmap, uint8 (ceil(d_out / 8),); row d is bit d % 8 of byte d // 8.

    Raises ValueError for rows that a bitmap cannot give back: out of range, repeated or in another order.
    """
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= d_out or bool((rows.diff() <= 0).any())):
        raise ValueError(f"Rows of {d_out} must be ascending and below {d_out}. Received: {rows.tolist()[:9]}.")
    bits = torch.zeros(-(-d_out // 8) * 8, dtype=torch.uint8)
    bits[rows] = 1
    powers = 2 ** torch.arange(8, dtype=torch.uint8)
    return (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def unpack_rows(bitmap: Tensor, d_out: int) -> Tensor:
    """The inverse of `pack_rows`: (m,) int64, ascending. Raises ValueError for a wrong size or a row past the last."""
    if bitmap.shape != (-(-d_out // 8),) or bitmap.dtype != torch.uint8:
        raise ValueError(
            f"A bitmap of {d_out} rows is uint8 ({-(-d_out // 8)},). Received: {bitmap.dtype} {tuple(bitmap.shape)}."
        )
    bits = (bitmap[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1  # (bytes, 8)
    rows = bits.flatten().nonzero()[:, 0]
    if len(rows) and int(rows[-1]) >= d_out:
        raise ValueError(f"A bitmap of {d_out} rows has none past the last. Received: row {int(rows[-1])}.")
    return rows


def overlap_mean(
    updates: Sequence[MaskedUpdate], weights: Tensor, d_out: int, normalise: Literal["responsibility", "count"]
) -> Factors:
    """Per row d: sum_k w_k B_k[d] A_k / sum_k w_k, over the clients k whose mask holds d; exact, as stacked factors.

    "count" divides by the number of those clients instead (the published code's rule, FedHFT arXiv 2510.14054). Rows
    that nobody covers, or nobody with weight, are zero. Weights (clients,). Raises ValueError for no clients, or for
    weights that are negative or not finite.
    """
    if not updates:
        raise ValueError("An overlap mean needs at least one client. Received: none.")
    share = weights.double()
    if share.shape != (len(updates),) or not torch.isfinite(share).all() or bool((share < 0).any()):
        raise ValueError(f"Weights must be {len(updates)} finite numbers, none negative. Received: {weights}.")
    device = updates[0].B.device
    below, share = torch.zeros(d_out, dtype=torch.float64, device=device), share.to(device)
    for update, weight in zip(updates, share, strict=True):
        below[update.rows] += 1.0 if normalise == "count" else weight
    parts = []
    for update, weight in zip(updates, share, strict=True):
        rows = torch.zeros(d_out, update.B.shape[1], dtype=torch.float64, device=device)
        divisor = below[update.rows, None]
        rows[update.rows] = torch.where(divisor > 0, weight * update.B.double() / divisor.clamp_min(1e-300), 0.0)
        parts.append(rows.to(update.B.dtype))
    return torch.cat(parts, 1), torch.cat([update.A for update in updates])
