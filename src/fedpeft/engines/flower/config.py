"""How an experiment reaches its clients over Flower; results depend on none of it."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedpeft.errors import UserError


class FlowerConfig(BaseModel):
    """The SuperLink of the engine `flower`, the processes of `flower-sim`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    superlink: str = Field("127.0.0.1:8000", description="flower: host:port of the SuperLink, on this machine")
    root_certificates: str | None = Field(
        None, description="flower: the PEM file of the authority that signed the SuperLink's certificate"
    )
    insecure: bool = Field(False, description="flower: plain text, for trials on one machine only")
    sites: int | None = Field(None, ge=1, le=100_000, description="flower: how many sites take part")
    wait_seconds: float = Field(
        300.0, gt=0, le=1e7, description="flower: how long sites are waited for, and their answers but for training"
    )
    ray_address: str | None = Field(None, description="flower-sim: of a Ray cluster; null: one of its own, here")
    gpus_per_client: float = Field(
        1.0, ge=0, le=64, description="flower-sim, model.device cuda: of a GPU, for each client that trains"
    )

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> "FlowerConfig":
        """The `flower` group of a run's settings; the defaults where there is none."""
        return cls.model_validate(settings["experiment"].get("flower") or {})


def require_flower(engine: str, *others: str) -> None:
    """Raises UserError where what an engine needs is not installed."""
    for package in ("flwr", *others):
        if find_spec(package) is None:
            raise UserError(f"engine {engine} needs the package {package}: pip install 'fedpeft[{engine}]'")
