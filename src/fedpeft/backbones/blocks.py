"""Finds the transformer blocks of a model and resolves which of them are chosen."""

import re
from collections.abc import Sequence

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from fedpeft.errors import UserError


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name, inside `model`, of the one `ModuleList` that holds its transformer blocks, and the list itself.

    Lists inside a block (experts, for example) do not count. Raises `UserError` when there is no such list or
    more than one, as in encoder-decoder models.
    """
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_nested = any(name.startswith(outer + ".") for outer in lists)
        if isinstance(module, nn.ModuleList) and len(module) > 0 and not is_nested:
            lists[name] = module
    if len(lists) != 1:
        raise UserError(
            f"{type(model).__name__}: expected one ModuleList of transformer blocks, found {len(lists)} "
            f"({', '.join(lists) or 'none'}). Use a model whose blocks are in one list, or name the blocks "
            "yourself with target_modules."
        )
    return next(iter(lists.items()))


def count_blocks(model: nn.Module) -> int:
    """The number of transformer blocks of the model."""
    return len(find_blocks(model)[1])


def unwrap_block(module: nn.Module) -> nn.Module:
    """`module` without the adapter layer around it, if there is one."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def resolve_layers(model: nn.Module, layers: str | Sequence[int], count: int) -> list[int]:
    """The block numbers, sorted and each once, that `layers` names: "all" or numbers from 0.

    Raises `UserError` for a number outside 0 to `count` - 1, for none at all and for any other string.
    """
    if layers == "all":
        return list(range(count))
    unknown = [i for i in layers if not (isinstance(i, int) and 0 <= i < count)]
    if isinstance(layers, str) or not layers or unknown:
        raise UserError(
            f"layers: {type(model).__name__} has blocks 0 to {count - 1}; give 'all' or a list of those. "
            f"Received: {layers!r}"
        )
    return sorted(set(layers))


def make_block_pattern(model: nn.Module, layers: str | Sequence[int]) -> str:
    """A regular expression that matches exactly the names of the chosen blocks, and nothing inside them."""
    name, blocks = find_blocks(model)
    numbers = "|".join(str(i) for i in resolve_layers(model, layers, len(blocks)))
    return rf"{re.escape(name)}\.({numbers})"
