"""The configuration of LoRA experts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from peft import PeftConfig
from torch import nn

from fedpeft.adapters.lora.config import make_lora_config
from fedpeft.adapters.register import add_peft_type
from fedpeft.errors import UserError

PEFT_TYPE = "LORA_EXPERTS"
MOST_EXPERTS = 64
Gate = Literal["router", "adaptive", "similarity"]


@dataclass
class ExpertsConfig(PeftConfig):
    """LoRA experts of equal rank on the same linear layers; a layer's output gains sum_i w_i (alpha / r) B_i A_i x.

    The gate says where the weights w come from; they are never negative and sum to 1:

    - "router": softmax of a linear layer's output for each token
    - "adaptive": the same with the best of 2 M - 1 choices, M experts in use, as in FedLEASE (see `ExpertsLayer`)
    - "similarity": for two experts, by how near a text is to a reference (see `SharedGate`)

    `target_modules` is a regular expression over module names. Raises `UserError` for what the fields do not allow.
    """

    r: int = field(default=8, metadata={"help": "Rank of every expert."})
    alpha: float = field(default=16, metadata={"help": "Scale: an expert's update is alpha / r * B A."})
    experts: int = field(default=2, metadata={"help": f"Number of experts, 1 to {MOST_EXPERTS}."})
    gate: str = field(default="router", metadata={"help": "'router', 'adaptive' or 'similarity'."})
    target_modules: str | None = field(default=None, metadata={"help": "Regular expression of linear layers' names."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train and save, such as a classification head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(PEFT_TYPE)
        self.check()

    def check(self) -> None:
        """Raises the errors of the class; also when an adapter is made of it, since fields can be changed."""
        if not isinstance(self.r, int) or self.r < 1:
            raise UserError(f"r: the rank is a whole number of at least 1. Received: {self.r!r}")
        if not isinstance(self.experts, int) or not 1 <= self.experts <= MOST_EXPERTS:
            raise UserError(f"experts: their number is 1 to {MOST_EXPERTS}. Received: {self.experts!r}")
        if self.gate not in get_args(Gate):
            raise UserError(f"gate: use one of {', '.join(get_args(Gate))}. Received: {self.gate!r}")
        if self.gate == "similarity" and self.experts != 2:
            raise UserError(f"experts: the gate 'similarity' mixes 2. Received: {self.experts!r}")


def make_experts_config(
    model: nn.Module,
    r: int,
    alpha: float,
    experts: int,
    gate: Gate,
    layers: str | Sequence[int] = "all",
    targets: str | Sequence[str] = "all-linear",
) -> ExpertsConfig:
    """Experts on the layers that `make_lora_config` would adapt, with the head; raises `UserError` as it does."""
    like = make_lora_config(model, r, alpha, layers, targets)
    modules_to_save = list(like.modules_to_save) if like.modules_to_save else None
    return ExpertsConfig(
        r=r,
        alpha=alpha,
        experts=experts,
        gate=gate,
        target_modules=str(like.target_modules),
        modules_to_save=modules_to_save,
    )
