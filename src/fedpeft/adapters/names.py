"""How trained and merged tensors are named, and what belongs together among names."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

FROZEN_DELTA = "merged_"  # begins the names of a frozen delta's factors: kept, for runs and messages hold them
_prefixes = {"lora_", FROZEN_DELTA}  # of what is no head; every tuner that registers adds its own


def is_head(name: str) -> bool:
    """Whether the named tensor belongs to the task head: to neither an adapter nor a frozen delta."""
    return not any(part.startswith(tuple(_prefixes)) for part in name.split("."))


def take_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the task head, by name, in the order given."""
    return {name: tensor for name, tensor in tensors.items() if is_head(name)}


def add_prefix(prefix: str) -> None:
    """Makes `is_head` know the prefix of another adapter's tensors."""
    _prefixes.add(prefix)


def find_interventions(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """The (R, W, b) names of every LoReFT intervention among `names`, in the order of the blocks."""
    prefixes = _find_modules(names, "reft_R")
    return [(f"{p}reft_R", f"{p}reft_W", f"{p}reft_b") for p in prefixes]


def find_lora_pairs(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(module, A name, B name) of every LoRA pair among `names`, in the order of the blocks."""
    prefixes = _find_modules(names, "lora_A.weight")
    return [(p.removesuffix("."), f"{p}lora_A.weight", f"{p}lora_B.weight") for p in prefixes]


def get_frozen_delta_names(module: str) -> tuple[str, str]:
    """The names of the frozen factors merged into a module: (r, d_in) and (d_out, r)."""
    return f"{module}.{FROZEN_DELTA}A", f"{module}.{FROZEN_DELTA}B"


def get_rows_name(module: str) -> str:
    """The name under which a snapshot holds the trained rows of a masked module, (m,) int64."""
    return f"{module}.lora_rows"


def _find_modules(names: Iterable[str], end: str) -> list[str]:
    """What stands before `end`, its dot included; block 10 comes after block 2."""
    prefixes = {name.removesuffix(end) for name in names if name.endswith(f".{end}")}
    return sorted(prefixes, key=lambda p: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", p)])
