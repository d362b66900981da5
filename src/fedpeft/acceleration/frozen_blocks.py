"""Finds the blocks at the bottom of a model that nothing trains or adds to, and what decides what they compute."""

from collections.abc import Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from fedpeft.adapters.kind import OutputEdit
from fedpeft.backbones.blocks import find_blocks, unwrap_block


def count_frozen_blocks(model: nn.Module) -> int:
    """The number of blocks, from the first, whose output is the same whatever is trained or added as a frozen delta.

    A block with an adapter inside ends them; one whose output LoReFT edits is the last of them, because its own
    computation comes before the edit. With an adapter before the blocks, or beside them in the backbone, it is 0.
    Raises `UserError` when the blocks cannot be found.
    """
    name, blocks = find_blocks(model)
    backbone, is_past_blocks, count = name.split(".")[0], False, len(blocks)
    for path, module in model.named_modules():
        is_past_blocks = is_past_blocks or path == name
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        if path.startswith(f"{name}."):
            block = int(path.removeprefix(f"{name}.").split(".")[0])
            count = min(count, block + 1 if module is blocks[block] and isinstance(module, OutputEdit) else block)
        elif not is_past_blocks or path.split(".")[0] == backbone:
            return 0
    return count


def find_frozen_tensors(model: nn.Module, count: int) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters, with their names, that may decide what the lowest `count` blocks compute.

    These are the parameters of those blocks, and all outside the list of blocks that belong to no adapter.
    """
    name, blocks = find_blocks(model)
    for i, block in enumerate(blocks[:count]):
        yield from ((f"{name}.{i}.{inner}", parameter) for inner, parameter in unwrap_block(block).named_parameters())
    adapted = [
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for path, parameter in model.named_parameters():
        if not path.startswith((f"{name}.", *adapted)):
            yield path, parameter
