"""The adapters a user can ask a method for, and how each becomes a PEFT configuration."""

from typing import Annotated, Any, Literal

from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator
from torch import nn

from fedpeft.adapters import LoReftConfig, Positions, SequenceClassifier, lora_config
from fedpeft.errors import UserError
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.method import MethodOptions


class LoraOptions(BaseModel):
    """LoRA (PEFT's own layers) on linear layers inside the transformer blocks."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["lora"] = "lora"
    r: int = Field(8, ge=1, description="rank")
    alpha: int = Field(16, ge=1, description="scale: the update is alpha / r * B A")
    layers: Literal["all"] | list[int] = Field("all", description="blocks to adapt, counted from 0")
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="which linear layers of a block")

    @property
    def scale(self) -> float:
        """s in s B A. One for a federation, also where ranks differ: then padding and truncation keep their meaning."""
        return self.alpha / self.r

    def config(self, model: nn.Module, client: ClientSpec, masked: bool = False) -> PeftConfig:
        """The PEFT configuration over `model`, head included, at the client's own rank and layers.

        `masked`: B has only the client's density of its rows.
        """
        rank, layers = client.allotment.rank or self.r, client.allotment.layers or self.layers
        density = client.allotment.density if masked else 1.0
        return lora_config(model, rank, self.scale * rank, layers, self.targets, density)


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
    def _positions_are_positions(cls, given: str) -> str:
        try:
            Positions.parse(given)
        except UserError as error:
            raise ValueError(str(error).removeprefix("positions: ")) from error
        return given

    def config(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        """The PEFT configuration, head included, on the client's own layers (an allotted rank is LoRA's)."""
        return LoReftConfig(
            r=self.r,
            layers=client.allotment.layers or self.layers,
            positions=self.positions,
            tied=self.tied,
            variant=self.variant,
            modules_to_save=["classifier"] if isinstance(model, SequenceClassifier) else None,
        )


class MeanOptions(MethodOptions):
    """What any method whose server takes a mean offers: FedProx at the client, FedAdam or FedYogi at the server."""

    proximal: float = Field(0.0, ge=0, description="mu of FedProx (arXiv 1812.06127): mu/2 ||w - w_received||^2")
    server: Literal["mean", "adam", "yogi"] = Field(
        "mean", description="the server takes the mean, or moves towards it by FedAdam or FedYogi (arXiv 2003.00295)"
    )
    server_lr: float = Field(0.01, gt=0, description="step of the server's adam or yogi")


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return value.get("kind", "lora")
    return value.kind if isinstance(value, LoraOptions | ReftOptions) else None


AdapterOptions = Annotated[
    Annotated[LoraOptions, Tag("lora")] | Annotated[ReftOptions, Tag("loreft")], Discriminator(_kind)
]
