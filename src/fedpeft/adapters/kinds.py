"""The table of adapter kinds. A new kind is a folder beside this file and one entry in `KINDS`."""

from functools import reduce
from operator import or_
from typing import Annotated, Any

from peft import PeftModel
from pydantic import Discriminator, Tag

from fedpeft.adapters.experts.kind import ExpertsKind
from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.lora.kind import LoraKind
from fedpeft.adapters.names import add_prefix
from fedpeft.adapters.reft.kind import ReftKind

KINDS: tuple[AdapterKind, ...] = (LoraKind(), ReftKind(), ExpertsKind())

for _kind in KINDS:
    add_prefix(_kind.tuner.prefix)


def find_kind(model: PeftModel) -> AdapterKind:
    """The kind of a PEFT model's adapter. Raises `ValueError` for a tuner that no kind has."""
    kind = next((kind for kind in KINDS if isinstance(model.base_model, kind.tuner)), None)
    if kind is None:
        known = ", ".join(kind.tuner.__name__ for kind in KINDS)
        raise ValueError(f"An adapted model has one of the tuners {known}. Received: {type(model.base_model).__name__}")
    return kind


def _read_kind(value: Any) -> str | None:
    """The kind's name in options from a file (a mapping; LoRA where it names none) or from a program (an object)."""
    if isinstance(value, dict):
        return value.get("kind", LoraKind.name)
    return next((kind.name for kind in KINDS if isinstance(value, kind.options)), None)


_options_of_kinds: Any = reduce(or_, (Annotated[kind.options, Tag(kind.name)] for kind in KINDS))
_discriminator = Discriminator(
    _read_kind,
    custom_error_type="adapter_kind",
    custom_error_message=f"kind: use one of {', '.join(kind.name for kind in KINDS)}",
)
AdapterOptions = Annotated[_options_of_kinds, _discriminator]  # the options of any kind, told apart by `kind`
