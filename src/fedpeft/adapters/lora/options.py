"""The LoRA options of an experiment, and the PEFT configuration made from them."""

from typing import Literal

from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedpeft.adapters.lora.config import make_lora_config
from fedpeft.resources import ClientResources


class LoraOptions(BaseModel):
    """LoRA (PEFT's own layers) on linear layers inside the transformer blocks.

    There is no dropout [choice]: its mask has a number for every token and feature, drawn in the order in which rows
    are padded, packed and put into one pass, so that results would depend on the engine and its accelerations.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["lora"] = "lora"
    r: int = Field(8, ge=1, description="rank")
    alpha: int = Field(16, ge=1, description="scale: the update is alpha / r * B A")
    layers: Literal["all"] | list[int] = Field("all", description="blocks to adapt, counted from 0")
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="which linear layers of a block")

    @property
    def scale(self) -> float:
        """The s in s B A: one for the whole federation, so that factors of other ranks can be padded and truncated."""
        return self.alpha / self.r

    def make_config(self, model: nn.Module, resources: ClientResources, masked: bool = False) -> PeftConfig:
        """The PEFT configuration for `model`, head included, at the client's own rank and layers.

        `masked`: only the client's `density` of the rows of B exist.
        """
        rank, layers = resources.rank or self.r, resources.layers or self.layers
        density = resources.density if masked else 1.0
        return make_lora_config(model, rank, self.scale * rank, layers, self.targets, density)
