"""Registers our tuners with PEFT.

PEFT's `register_peft_method` accepts only members of its enumeration `PeftType`. A plain string is equal to a member
and would do for the tables below, but PEFT and transformers also ask a method for its `.value` and whether it is in
the enumeration, so that ours become members.
"""

from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner


def register(name: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Makes a tuner known to `get_peft_model` and `PeftModel.from_pretrained`, as the `PeftType` of the given name.

    Registering the same tuner again changes nothing. Raises `ImportError` when the name belongs to another tuner.
    """
    peft_type = add_peft_type(name)
    known = cast(dict[str, Any], PEFT_TYPE_TO_TUNER_MAPPING).get(peft_type, tuner)
    if known is not tuner:
        raise ImportError(f"PEFT already has a method named {name}: {known.__module__}.{known.__qualname__}")
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = tuner
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = tuner.prefix


def add_peft_type(name: str) -> PeftType:
    """The member of `PeftType` of this name, which is made where there is none yet."""
    if name not in PeftType.__members__:
        # An enumeration is closed to subclasses and assignments: a member is made as `enum` itself makes one.
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        type.__setattr__(PeftType, name, member)
    return PeftType[name]
