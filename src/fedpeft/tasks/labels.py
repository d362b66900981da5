"""The names of labels, as rows are read."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fedpeft.errors import UserError
from fedpeft.tasks.values import quote

MOST_IN_FEW_ROWS = 20  # labels that may have a row or two each


@dataclass(frozen=True)
class LabelIndex:
    """The federation's labels by name; `unknown` is what an error says of a name that is none of them."""

    names: Sequence[str]
    unknown: str
    positions: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", {name: i for i, name in enumerate(self.names)})

    def require(self, name: str, where: str) -> int:
        """The index of a name. Raises UserError, with the place of the row, where there is no such label."""
        if name not in self.positions:
            raise UserError(f"{where}: label {name!r} {self.unknown}: {', '.join(self.names)}")
        return self.positions[name]


def sort_labels(names: Collection[str]) -> list[str]:
    """The names in the order of their indices: whole numbers by size, others by their characters."""
    return sorted(names, key=int) if all(map(is_whole_number, names)) else sorted(names)


def is_whole_number(name: str) -> bool:
    """Whether `int` reads the name, which has no more digits than a file may count."""
    return re.fullmatch(r"-?\d{1,18}", name) is not None


def require_labels(labels: Sequence[str], rows: int, column: str) -> None:
    """Raises UserError where the values of a column of `rows` cannot be labels: one only, or next to no two alike."""
    if len(labels) < 2:
        raise UserError(f"task.label: column {column!r} holds one value only ({', '.join(labels)}); nothing to learn")
    if len(labels) > MOST_IN_FEW_ROWS and len(labels) > rows / 2:
        raise UserError(
            f"task.label: column {column!r} holds {len(labels)} different values in {rows} rows, such as "
            f"{quote(labels[0])}; these are no labels: name another column, or `kind: regression` for numbers"
        )
