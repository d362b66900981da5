"""Registers our tuners with PEFT.

PEFT's `register_peft_method` accepts only members of its own enumeration. That enumeration is of strings, and
PEFT looks methods up by equality in the three tables below, so that a plain string is a complete registration.
"""

from typing import Any, cast

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner


def register(peft_type: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Makes a tuner known to `get_peft_model` and `PeftModel.from_pretrained`.

    Registering the same tuner again changes nothing. Raises `ImportError` when the name belongs to another tuner.
    """
    configs = cast(dict[str, Any], PEFT_TYPE_TO_CONFIG_MAPPING)
    tuners = cast(dict[str, Any], PEFT_TYPE_TO_TUNER_MAPPING)
    prefixes = cast(dict[str, Any], PEFT_TYPE_TO_PREFIX_MAPPING)
    known = tuners.get(peft_type, tuner)
    if known is not tuner:
        raise ImportError(f"PEFT already has a method named {peft_type}: {known.__module__}.{known.__qualname__}")
    configs[peft_type], tuners[peft_type], prefixes[peft_type] = config, tuner, tuner.prefix
