"""How long a training step takes: multiplications known by arithmetic, two coefficients fitted to dry steps [ours]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from fedpeft.budgets.memory import Point
from fedpeft.budgets.shape import ModelShape
from fedpeft.resources import ClientResources


@dataclass(frozen=True)
class TimeModel:
    """Seconds per multiplication and seconds per block that a forward or backward pass enters."""

    per_product: float
    per_block: float

    def step(self, shape: ModelShape, length: int, batch_size: int, resources: ClientResources) -> float:
        """Seconds of one optimiser step over `batch_size` rows of `length` tokens."""
        products, blocks = work(shape, length, batch_size, resources)
        return self.per_product * products + self.per_block * blocks


def work(shape: ModelShape, length: int, batch_size: int, resources: ClientResources) -> tuple[float, float]:
    """(multiplications, blocks entered) of one step.

    Every block runs forward; from the lowest adapted one up also backward, which through frozen matrices costs as much
    as forward, and with checkpointing forward once more.
    """
    depth = shape.depth(resources)
    passes = shape.blocks + depth * (2 if resources.checkpointing else 1)
    per_token = sum(d_in * d_out for d_in, d_out in shape.linear.values()) + 2 * length * shape.width
    pieces = -(-batch_size // min(resources.micro_batch or batch_size, batch_size))
    return float(passes * per_token * batch_size * length), float(passes * pieces)


def fit_seconds(shape: ModelShape, points: Sequence[Point]) -> TimeModel:
    """Non-negative least squares on relative errors; each point is one forward pass per step."""
    rows = np.array([work(shape, p.length, p.rows, p.resources) for p in points])
    seconds = np.array([p.step_seconds for p in points])
    scale = rows.max(0)
    found, _ = nnls(rows / scale / seconds[:, None], np.ones(len(points)))
    return TimeModel(*(float(value) for value in found / scale))
