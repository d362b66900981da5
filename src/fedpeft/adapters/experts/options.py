"""The options of LoRA experts in an experiment, and the PEFT configuration made from them."""

from typing import Literal

from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedpeft.adapters.experts.config import MOST_EXPERTS, make_experts_config
from fedpeft.resources import ClientResources


class ExpertsOptions(BaseModel):
    """LoRA experts on linear layers inside the transformer blocks, mixed for each token by a router."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["experts"] = "experts"
    r: int = Field(8, ge=1, description="rank of every expert")
    alpha: int = Field(16, ge=1, description="scale: an expert's update is alpha / r * B A")
    experts: int = Field(2, ge=1, le=MOST_EXPERTS, description="number of experts")
    layers: Literal["all"] | list[int] = Field("all", description="blocks to adapt, counted from 0")
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="which linear layers of a block")

    def make_config(self, model: nn.Module, resources: ClientResources) -> PeftConfig:
        """The PEFT configuration for `model`, head included, at the client's own rank and layers."""
        rank, layers = resources.rank or self.r, resources.layers or self.layers
        scale = self.alpha / self.r
        return make_experts_config(model, rank, scale * rank, self.experts, "router", layers, self.targets)
