"""A line of block characters whose heights are numbers."""

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 16  # the most characters


def draw_sparkline(values: Sequence[float]) -> str:
    """The last numbers, one character each, from the lowest of them to the highest; a space for one that is none."""
    shown = values[-WIDTH:]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0  # equal numbers are all at the bottom
    return "".join(BLOCKS[round((value - low) / step)] if math.isfinite(value) else " " for value in shown)
