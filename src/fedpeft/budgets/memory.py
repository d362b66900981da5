"""How much memory a configuration takes: sizes known by arithmetic, four coefficients fitted to dry steps [choice].

    peak = constant + trained + kept * K + working * W + maps * M        in MiB, and never below the loading peak

`constant` is the runtime, the libraries and the frozen weights. A trained parameter takes 16 bytes: value, gradient and
AdamW's two moments in float32. K, W and M (`Sizes`) are what the adapted blocks keep for the backward pass, what one
block works with at a time, and what attention keeps. Logits of a classifier are a few bytes per example and are left
out. Coefficients are never negative; those of K and W come out near 1 and 3 where the arithmetic is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from fedpeft.budgets.shape import DEFAULT_RANK, ModelShape
from fedpeft.resources import ClientResources
from fedpeft.units import MIB

STATE_BYTES = 16  # per trained parameter
MARGIN = 0.03  # added to what training takes above `constant`: a budget that is broken costs more than one not used up
MARGIN_MIB = 4.0  # added to every prediction: page and library effects that no size explains


@dataclass(frozen=True)
class Point:
    """One measured dry step: `rows` examples of `length` tokens per forward pass, its peak while training and its
    seconds per step."""

    length: int
    rows: int
    resources: ClientResources
    training_mib: float
    step_seconds: float


class Sizes(NamedTuple):
    """What a configuration keeps in memory above the constant, in MiB, before any coefficient."""

    trained: float  # parameters with their gradients and optimiser state
    kept: float  # K: activations of the adapted blocks
    working: float  # W: of one block at a time
    maps: float  # M: of attention


@dataclass(frozen=True)
class MemoryModel:
    """The fitted coefficients. `loading_mib` and `libraries_mib` are measured."""

    constant_mib: float
    kept: float
    working: float
    maps: float
    loading_mib: float
    libraries_mib: float

    def predict(self, shape: ModelShape, length: int, rows: int, resources: ClientResources) -> float:
        """Peak memory in MiB, safety margin included, for `rows` examples of `length` tokens per forward pass."""
        sizes = compute_sizes(shape, length, rows, resources)
        above = sizes.trained + (self.kept * sizes.kept + self.working * sizes.working + self.maps * sizes.maps)
        return max(self.loading_mib, self.constant_mib + (1 + MARGIN) * above) + MARGIN_MIB


def compute_sizes(shape: ModelShape, length: int, rows: int, resources: ClientResources) -> Sizes:
    """The sizes in MiB for `rows` examples of `length` tokens in one forward pass.

    An adapted linear layer keeps its input and its rank-wide product; the block keeps each linear layer's output (or
    what is made of it), the wide activation, and three vectors of the model's width. Checkpointing keeps each block's
    input and one block whole. Nothing is kept below the lowest adapted block. "eager" attention keeps a map of
    heads x length^2 per example and block (after the softmax; dropout is off); other implementations hold the mask
    only.
    """
    rank, depth = resources.rank or DEFAULT_RANK, shape.count_backward_blocks(resources)
    outputs = sum(d_out for _, d_out in shape.linear.values())
    block = float(outputs + shape.intermediate + 3 * shape.width + rank * len(shape.linear))
    if resources.density < 1:  # the rows of B that train have an output of their own, kept beside the whole one
        block += resources.density * outputs
    whole = 1 if resources.checkpointing else depth
    inputs = depth * shape.width if resources.checkpointing else 0
    tokens = rows * length * shape.element_bytes
    maps = rows * length**2 * shape.element_bytes
    if shape.attention == "eager":
        maps *= whole * shape.heads
    return Sizes(
        trained=STATE_BYTES * shape.count_trained(resources) / MIB,
        kept=tokens * (whole * block + inputs) / MIB,
        working=tokens * (shape.intermediate + shape.width) / MIB,
        maps=maps / MIB,
    )


def fit_memory(
    shape: ModelShape, points: Sequence[Point], loading_mib: float, libraries_mib: float = 0.0
) -> MemoryModel:
    """Fits the coefficients to `points`: non-negative least squares on relative errors.

    Raises ValueError for fewer than four points.
    """
    if len(points) < 4:
        raise ValueError(f"Four coefficients need four points or more. Received: {len(points)}")
    rows, targets = [], []
    for point in points:
        sizes = compute_sizes(shape, point.length, point.rows, point.resources)
        rows.append([1.0, sizes.kept, sizes.working, sizes.maps])
        targets.append(point.training_mib - sizes.trained)
    weight = 1 / np.array([point.training_mib for point in points])
    coefficients, _ = nnls(np.array(rows) * weight[:, None], np.array(targets) * weight)
    constant, kept, working, maps = (float(value) for value in coefficients)
    return MemoryModel(constant, kept, working, maps, loading_mib, libraries_mib)
