"""The LoReFT options of an experiment, and the PEFT configuration made from them."""

from typing import Literal

from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from fedpeft.adapters.reft.config import LoReftConfig
from fedpeft.adapters.reft.positions import Positions
from fedpeft.backbones.heads import SequenceClassifier
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources


class ReftOptions(BaseModel):
    """LoReFT interventions on the residual stream after each chosen block (arXiv 2404.03592)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["loreft"] = "loreft"
    r: int = Field(4, ge=1, description="rank of an intervention")
    layers: Literal["all"] | list[int] = Field("all", description="blocks to intervene on, counted from 0")
    positions: str = Field("all", description='prompt positions: "f7+l7", "f3", "l1" or "all"')
    tied: bool = Field(False, description="one intervention for first and last positions instead of two")
    variant: Literal["loreft", "noreft", "direft"] = Field("loreft", description="form of the intervention")

    @field_validator("positions")
    @classmethod
    def _validate_positions(cls, positions: str) -> str:
        try:
            Positions.parse(positions)
        except UserError as error:
            raise ValueError(str(error).removeprefix("positions: ")) from error
        return positions

    def make_config(self, model: nn.Module, resources: ClientResources) -> PeftConfig:
        """The PEFT configuration for `model`, head included, on the client's own layers.

        A rank that the client was given is the most that it can carry, of any adapter: a smaller r stays [choice].
        """
        return LoReftConfig(
            r=min(self.r, resources.rank or self.r),
            layers=resources.layers or self.layers,
            positions=self.positions,
            tied=self.tied,
            variant=self.variant,
            modules_to_save=["classifier"] if isinstance(model, SequenceClassifier) else None,
        )
