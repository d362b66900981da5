"""The configuration of LoReFT, NoReFT and DiReFT."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from peft import PeftConfig

from fedpeft.adapters.reft.positions import Positions
from fedpeft.adapters.register import add_peft_type
from fedpeft.errors import UserError

PEFT_TYPE = "LOREFT"
Variant = Literal["loreft", "noreft", "direft"]


@dataclass
class LoReftConfig(PeftConfig):
    """Low-rank edits of hidden states at prompt positions (Wu et al., arXiv 2404.03592).

    The defaults are FedReFT's placement: every block, the first and last 7 prompt tokens, one intervention
    for each of the two groups. `target_modules` names the blocks (a regular expression over module names); it
    is needed only for a model whose blocks are not in one `ModuleList`, and then `layers` is ignored.

    Raises `UserError` for a rank, a variant or positions that the fields do not allow.
    """

    r: int = field(default=4, metadata={"help": "Rank: rows of R and W."})
    layers: Any = field(default="all", metadata={"help": "'all' or a list of block numbers from 0."})
    positions: str = field(default="f7+l7", metadata={"help": "'f7+l7', 'f3', 'l1' or 'all' prompt tokens."})
    tied: bool = field(default=False, metadata={"help": "One intervention for prefix and suffix together."})
    variant: str = field(default="loreft", metadata={"help": "'loreft', 'noreft' or 'direft'."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train and save, such as a classification head."}
    )
    target_modules: str | None = field(
        default=None, metadata={"help": "Regular expression of block names; found in the model when None."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(PEFT_TYPE)
        self.check()

    def check(self) -> None:
        """Raises the errors of the class; also when an adapter is made of it, since fields can be changed."""
        if not isinstance(self.r, int) or self.r < 1:
            raise UserError(f"r: the rank is a whole number of at least 1. Received: {self.r!r}")
        if self.variant not in get_args(Variant):
            raise UserError(f"variant: use one of {', '.join(get_args(Variant))}. Received: {self.variant!r}")
        Positions.parse(self.positions)
