"""How long a training step takes: multiplications by arithmetic, two coefficients fitted to dry steps [choice]."""

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

    def predict(self, shape: ModelShape, length: int, batch_size: int, resources: ClientResources) -> float:
        """Seconds of one optimiser step over `batch_size` examples of `length` tokens."""
        multiplications, blocks = count_work(shape, length, batch_size, resources)
        return self.per_product * multiplications + self.per_block * blocks


def count_work(shape: ModelShape, length: int, batch_size: int, resources: ClientResources) -> tuple[float, float]:
    """(multiplications, blocks entered) of one optimiser step.

    Every block runs forward. From the lowest adapted one up each runs backward too, which through frozen matrices takes
    as much as forward, and with checkpointing forward once more.
    """
    depth = shape.count_backward_blocks(resources)
    passes = shape.blocks + depth * (2 if resources.checkpointing else 1)
    per_token = sum(d_in * d_out for d_in, d_out in shape.linear.values()) + 2 * length * shape.width
    micro_batches = -(-batch_size // min(resources.micro_batch or batch_size, batch_size))
    return float(passes * per_token * batch_size * length), float(passes * micro_batches)


def fit_step_time(shape: ModelShape, points: Sequence[Point]) -> TimeModel:
    """Fits both coefficients to `points`, whose steps are one forward pass each: non-negative least squares on relative
    errors."""
    work = np.array([count_work(shape, p.length, p.rows, p.resources) for p in points])  # (points, 2)
    seconds = np.array([p.step_seconds for p in points])  # (points,)
    scale = work.max(0)
    coefficients, _ = nnls(work / scale / seconds[:, None], np.ones(len(points)))
    per_product, per_block = (float(value) for value in coefficients / scale)
    return TimeModel(per_product, per_block)
