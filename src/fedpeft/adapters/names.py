"""The names of an adapter's tensors: which belong together, and which are the head's."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

FROZEN_DELTA = "merged_"  # prefix of a frozen delta's factors; saved runs and messages hold these names
_prefixes = {FROZEN_DELTA}  # of tensors outside the head; each kind of adapter adds its tuner's


def is_head(name: str) -> bool:
    """Whether the named tensor belongs to the task head: to neither an adapter nor a frozen delta."""
    return not any(part.startswith(tuple(_prefixes)) for part in name.split("."))


def take_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the task head, by name, in the order given."""
    return {name: tensor for name, tensor in tensors.items() if is_head(name)}


def add_prefix(prefix: str) -> None:
    """Adds a prefix of adapter tensors, which `is_head` then tells from the head's."""
    _prefixes.add(prefix)


def find_interventions(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """The (R, W, b) names of every LoReFT intervention among `names`, in the order of the blocks."""
    modules = _find_modules(names, "reft_R")
    return [(f"{module}.reft_R", f"{module}.reft_W", f"{module}.reft_b") for module in modules]


def find_lora_pairs(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(module, A name, B name) of every LoRA pair among `names`, in the order of the blocks."""
    modules = _find_modules(names, "lora_A.weight")
    return [(module, f"{module}.lora_A.weight", f"{module}.lora_B.weight") for module in modules]


def find_expert_layers(names: Iterable[str]) -> list[str]:
    """The layers with LoRA experts among `names`, in the order of the blocks."""
    return _find_modules(names, "expert_lora.A0")


def get_expert_names(layer: str, expert: int) -> tuple[str, str]:
    """The names of the factors A (r, d_in) and B (d_out, r) of one expert of a layer."""
    return f"{layer}.expert_lora.A{expert}", f"{layer}.expert_lora.B{expert}"


def get_router_name(layer: str) -> str:
    """The name of the weight (choices, d_in) of a layer's router."""
    return f"{layer}.expert_gate.weight"


def get_frozen_delta_names(module: str) -> tuple[str, str]:
    """The names of the two factors of a module's frozen delta: A (r, d_in) and B (d_out, r)."""
    return f"{module}.{FROZEN_DELTA}A", f"{module}.{FROZEN_DELTA}B"


def get_rows_name(module: str) -> str:
    """The name by which a snapshot holds the numbers of a masked module's trained rows, (m,) int64."""
    return f"{module}.lora_rows"


def _find_modules(names: Iterable[str], end: str) -> list[str]:
    """The modules that have a tensor named `end`, block 10 after block 2."""
    modules = {name.removesuffix(f".{end}") for name in names if name.endswith(f".{end}")}
    return sorted(modules, key=lambda module: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", module)])
