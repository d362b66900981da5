"""How trained and merged tensors are named, and what belongs together among names."""

import re
from collections.abc import Iterable

ADAPTER_PARTS = ("lora_", "reft_", "merged_")


def is_head(name: str) -> bool:
    """Whether the named tensor belongs to the task head: everything that is not an adapter or merged."""
    return not any(part.startswith(ADAPTER_PARTS) for part in name.split("."))


def interventions(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """The (R, W, b) names of every LoReFT intervention among `names`, in the order of the blocks."""
    prefixes = _prefixes(names, "reft_R")
    return [(f"{p}reft_R", f"{p}reft_W", f"{p}reft_b") for p in prefixes]


def lora_pairs(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(module, A name, B name) of every LoRA pair among `names`, in the order of the blocks."""
    prefixes = _prefixes(names, "lora_A.weight")
    return [(p.removesuffix("."), f"{p}lora_A.weight", f"{p}lora_B.weight") for p in prefixes]


def merged_names(module: str) -> tuple[str, str]:
    """The names of the frozen factors merged into a module: (r, d_in) and (d_out, r)."""
    return f"{module}.merged_A", f"{module}.merged_B"


def rows_name(module: str) -> str:
    """The name under which a snapshot holds the trained rows of a masked module, (m,) int64."""
    return f"{module}.lora_rows"


def _prefixes(names: Iterable[str], end: str) -> list[str]:
    """What stands before `end`, its dot included; block 10 comes after block 2."""
    prefixes = {name.removesuffix(end) for name in names if name.endswith(f".{end}")}
    return sorted(prefixes, key=lambda p: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", p)])
