"""The names of labels, as rows are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedpeft.errors import UserError


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
