"""A search for the best learning rate: the grid grows until the best lies inside it, then closes in on it."""

from collections.abc import Mapping

Score = tuple[float, ...]  # more is better; compared item by item


def propose_position(scores: Mapping[float, Score | None]) -> float:
    """The next position to try, in factors above the start, from the scores of those tried; None where one failed.

    The start is 0. While the best position is the highest tried, the next is one above; while it is the lowest, one
    below. With neighbours on both sides the wider of the two gaps is halved, of equal ones that towards the better
    neighbour.
    """
    if not scores:
        return 0.0
    best, tried = find_best(scores), sorted(scores)
    if scores[best] is None or (best == tried[0] and len(tried) > 1):
        return tried[0] - 1  # where training fails everywhere, lower rates may do
    if best == tried[-1]:
        return best + 1
    below, above = tried[tried.index(best) - 1], tried[tried.index(best) + 1]
    gaps = {below: best - below, above: above - best}
    neighbour = max((above, below), key=lambda position: (gaps[position], _rank(scores[position])))
    return (best + neighbour) / 2


def find_best(scores: Mapping[float, Score | None]) -> float:
    """The position with the best score; of equal ones the nearest to the start."""
    return max(scores, key=lambda position: (_rank(scores[position]), -abs(position)))


def find_edge(rates: Mapping[float, object], best: float) -> str | None:
    """`lowest` or `highest` where the best of several rates has no neighbour on that side, else None."""
    if len(rates) < 2 or min(rates) < best < max(rates):
        return None
    return "lowest" if best == min(rates) else "highest"


def convert_to_rate(start: float, factor: float, position: float) -> float:
    """The learning rate at a position, in four digits: it names a folder."""
    return float(f"{start * factor**position:.4g}")


def _rank(score: Score | None) -> tuple[bool, Score]:
    return score is not None, score or ()
