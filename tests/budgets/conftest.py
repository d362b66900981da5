"""A backbone of round sizes, and models whose coefficients are known."""

import pytest

from fedpeft.budgets.memory import MemoryModel
from fedpeft.budgets.shape import ModelShape
from fedpeft.budgets.step_time import TimeModel


@pytest.fixture
def shape() -> ModelShape:
    """6 blocks of width 384, as MiniLM."""
    square = ("query", "key", "value", "output")
    linear = dict.fromkeys(square, (384, 384)) | {"up": (384, 1536), "down": (1536, 384)}
    return ModelShape(22_000_000, 88_000_000, 4, 6, 384, 1536, 12, 12, 30522, "sdpa", 770, linear)


@pytest.fixture
def memory() -> MemoryModel:
    return MemoryModel(600.0, 1.05, 2.5, 1.2, 590.0, 490.0)


@pytest.fixture
def time() -> TimeModel:
    return TimeModel(4e-11, 1e-4)
