"""LoReFT, NoReFT and DiReFT as PEFT tuners. Importing this package makes PEFT know them.

PEFT's `register_peft_method` accepts only members of its own enumeration. That enumeration is of strings, and
PEFT looks methods up by equality in the three tables below, so a plain string is a complete registration.
"""

from typing import Any, cast

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from fedpeft.adapters.reft.config import PEFT_TYPE, LoReftConfig
from fedpeft.adapters.reft.model import LoReftModel

__all__ = ["LoReftConfig", "LoReftModel"]


def _register() -> None:
    configs = cast(dict[str, Any], PEFT_TYPE_TO_CONFIG_MAPPING)
    tuners = cast(dict[str, Any], PEFT_TYPE_TO_TUNER_MAPPING)
    prefixes = cast(dict[str, Any], PEFT_TYPE_TO_PREFIX_MAPPING)
    known = tuners.get(PEFT_TYPE, LoReftModel)
    if known is not LoReftModel:
        raise ImportError(f"PEFT already has a method named {PEFT_TYPE}: {known.__module__}.{known.__qualname__}")
    configs[PEFT_TYPE], tuners[PEFT_TYPE], prefixes[PEFT_TYPE] = LoReftConfig, LoReftModel, LoReftModel.prefix


_register()
