"""The fields of LoReFT in an adapter's folder."""

from typing import Annotated, ClassVar, Literal

from peft import PeftConfig
from pydantic import Field

from fedpeft.adapters.reft.config import PEFT_TYPE, LoReftConfig
from fedpeft.adapters.stored import BlockPattern, Rank, StoredConfig


class StoredReft(StoredConfig):
    """LoReFT, NoReFT and DiReFT."""

    peft_type: ClassVar[str] = PEFT_TYPE
    peft_config: ClassVar[type[PeftConfig]] = LoReftConfig

    r: Rank
    layers: Literal["all"] | Annotated[list[int], Field(max_length=10_000)] = "all"
    positions: str = Field("f7+l7", pattern=r"^(all|f[1-9]\d{0,5}(\+l[1-9]\d{0,5})?|l[1-9]\d{0,5})$")
    tied: bool = False
    variant: Literal["loreft", "noreft", "direft"] = "loreft"
    target_modules: BlockPattern | None = None
