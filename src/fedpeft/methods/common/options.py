"""Options that several methods offer."""

from typing import Literal

from pydantic import Field

from fedpeft.adapters import LoraOptions
from fedpeft.federation.method import MethodOptions


class MeanOptions(MethodOptions):
    """Options of every method whose server takes a mean: FedProx at the client, FedAdam or FedYogi at the server."""

    proximal: float = Field(
        0.0, ge=0, description="mu of FedProx (arXiv 1812.06127): adds mu/2 ||w - w_received||^2 to the loss"
    )
    server: Literal["mean", "adam", "yogi"] = Field(
        "mean", description="the server takes the mean, or steps towards it by FedAdam or FedYogi (arXiv 2003.00295)"
    )
    server_lr: float = Field(0.01, gt=0, description="learning rate of the server's adam or yogi")


class LoraMeanOptions(MeanOptions):
    """Those of a method that averages LoRA tensors."""

    adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA that every client trains")


class FactorMeanOptions(LoraMeanOptions):
    """Those of a method that averages both A and B of the same layers, so that their rotation matters."""

    align: Literal["none", "rotation"] = Field(
        "none", description="turn every client's factors towards the last round's before the mean (arXiv 2602.23638)"
    )


class MixedRankOptions(MethodOptions):
    """Those of a method whose clients may have LoRA of different ranks."""

    adapter: LoraOptions = Field(
        default_factory=LoraOptions, description="the LoRA of clients; `resources` may give them other ranks"
    )
