"""Masked rows: their choice, their packing as a bitmap, and the mean over the clients whose mask holds a row."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedpeft.aggregation.lowrank import Factors


class MaskedUpdate(NamedTuple):
    """Some rows of one client's update B A."""

    rows: Tensor  # (m,) int64, ascending
    B: Tensor  # (m, r), those rows only
    A: Tensor  # (r, d_in)


def top_rows(importance: Tensor, density: float) -> Tensor:
    """The ceil(density d_out) rows of largest importance (d_out,), at least one, ascending int64; the first of equals.

    Raises ValueError for a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"Density is a fraction of the rows, in (0, 1]. Received: {density}.")
    count = max(1, math.ceil(density * len(importance) - 1e-9))  # in floating point 0.07 * 100 is above 7
    order = torch.sort(importance, descending=True, stable=True).indices
    return order[:count].sort().values.cpu()


def pack_rows(rows: Tensor, d_out: int) -> Tensor:
    """The bitmap, uint8 (ceil(d_out / 8),), of rows (m,), ascending; row d is bit d % 8 of byte d // 8.

    Raises ValueError for rows that a bitmap cannot hold: out of range, repeated or in another order.
    """
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= d_out or bool((rows.diff() <= 0).any())):
        raise ValueError(f"Rows of {d_out} must be ascending and below {d_out}. Received: {rows.tolist()[:9]}.")
    bits = torch.zeros(-(-d_out // 8) * 8, dtype=torch.uint8)
    bits[rows] = 1
    powers = 2 ** torch.arange(8, dtype=torch.uint8)
    return (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def unpack_rows(bitmap: Tensor, d_out: int) -> Tensor:
    """The rows (m,) int64, ascending, of a bitmap of `pack_rows`. Raises ValueError for a wrong size or row."""
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
    """The mean sum_k w_k B_k[d] A_k / sum_k w_k of every row d over the clients k whose mask holds it, exactly.

    The result is stacked factors; weights are (clients,). "count" divides by the number of those clients instead (the
    rule of the published code, FedHFT arXiv 2510.14054). Rows that no client with weight covers are zero. Raises
    ValueError for no clients, or for weights that are negative or not finite.
    """
    if not updates:
        raise ValueError("An overlap mean needs at least one client. Received: none.")
    weights = weights.double()
    if weights.shape != (len(updates),) or not torch.isfinite(weights).all() or bool((weights < 0).any()):
        raise ValueError(f"Weights must be {len(updates)} finite numbers, none negative. Received: {weights}.")
    device = updates[0].B.device
    divisors, weights = torch.zeros(d_out, dtype=torch.float64, device=device), weights.to(device)
    for update, weight in zip(updates, weights, strict=True):
        divisors[update.rows] += 1.0 if normalise == "count" else weight
    scaled = []
    for update, weight in zip(updates, weights, strict=True):
        full = torch.zeros(d_out, update.B.shape[1], dtype=torch.float64, device=device)
        divisor = divisors[update.rows, None]
        full[update.rows] = torch.where(divisor > 0, weight * update.B.double() / divisor.clamp_min(1e-300), 0.0)
        scaled.append(full.to(update.B.dtype))
    return torch.cat(scaled, 1), torch.cat([update.A for update in updates])
