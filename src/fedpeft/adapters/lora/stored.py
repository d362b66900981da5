"""The fields of LoRA in an adapter's folder."""

from typing import ClassVar

from peft import LoraConfig, PeftConfig
from pydantic import Field

from fedpeft.adapters.stored import ModuleName, ModulePattern, Rank, StoredConfig

_MAX_MODULES = 100_000


class StoredLora(StoredConfig):
    """Plain LoRA on linear layers in blocks: `convert_to_lora` makes it of masked rows and frozen deltas, too."""

    peft_type: ClassVar[str] = "LORA"
    peft_config: ClassVar[type[PeftConfig]] = LoraConfig

    r: Rank
    lora_alpha: float
    rank_pattern: dict[ModuleName, Rank] = Field({}, max_length=_MAX_MODULES)
    alpha_pattern: dict[ModuleName, float] = Field({}, max_length=_MAX_MODULES)
    target_modules: ModulePattern
    fan_in_fan_out: bool = False
