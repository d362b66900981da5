"""Options that several methods offer."""

from typing import Literal

from pydantic import Field

from fedpeft.federation.method import MethodOptions


class MeanOptions(MethodOptions):
    """What any method whose server takes a mean offers: FedProx at the client, FedAdam or FedYogi at the server."""

    proximal: float = Field(0.0, ge=0, description="mu of FedProx (arXiv 1812.06127): mu/2 ||w - w_received||^2")
    server: Literal["mean", "adam", "yogi"] = Field(
        "mean", description="the server takes the mean, or moves towards it by FedAdam or FedYogi (arXiv 2003.00295)"
    )
    server_lr: float = Field(0.01, gt=0, description="step of the server's adam or yogi")
