"""The kinds of adapter there are. A new kind is a folder beside this file and one entry here."""

from functools import reduce
from operator import or_
from typing import Annotated, Any

from peft import PeftModel
from pydantic import Discriminator, Tag

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.lora.kind import LoraKind
from fedpeft.adapters.reft.kind import ReftKind

KINDS: tuple[AdapterKind, ...] = (LoraKind(), ReftKind())


def find_kind(model: PeftModel) -> AdapterKind:
    """The kind of a PEFT model's adapter. Raises ValueError for a tuner that is of none."""
    kind = next((kind for kind in KINDS if isinstance(model.base_model, kind.tuner)), None)
    if kind is None:
        known = ", ".join(kind.tuner.__name__ for kind in KINDS)
        raise ValueError(f"An adapted model has one of the tuners {known}. Received: {type(model.base_model).__name__}")
    return kind


def _read_kind(value: Any) -> str | None:
    """The name of the kind in what a file or a program gives; LoRA where it says none."""
    if isinstance(value, dict):
        return value.get("kind", LoraKind.name)
    return next((kind.name for kind in KINDS if isinstance(value, kind.options)), None)


_TAGGED: Any = reduce(or_, (Annotated[kind.options, Tag(kind.name)] for kind in KINDS))
AdapterOptions = Annotated[_TAGGED, Discriminator(_read_kind)]  # the options of any kind, told apart by `kind`
