"""How PEFT learns of a tuner that is not its own.

PEFT's `register_peft_method` accepts only members of its own enumeration. That enumeration is of strings, and
PEFT looks methods up by equality in the three tables below, so a plain string is a complete registration.
"""

from typing import Any, cast

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner

from fedpeft.adapters.names import add_prefix


def register(peft_type: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Makes `get_peft_model` and `PeftModel.from_pretrained` know a tuner. Raises `ImportError` when the name is
    taken."""
    configs = cast(dict[str, Any], PEFT_TYPE_TO_CONFIG_MAPPING)
    tuners = cast(dict[str, Any], PEFT_TYPE_TO_TUNER_MAPPING)
    prefixes = cast(dict[str, Any], PEFT_TYPE_TO_PREFIX_MAPPING)
    known = tuners.get(peft_type, tuner)
    if known is not tuner:
        raise ImportError(f"PEFT already has a method named {peft_type}: {known.__module__}.{known.__qualname__}")
    configs[peft_type], tuners[peft_type], prefixes[peft_type] = config, tuner, tuner.prefix
    add_prefix(tuner.prefix)
