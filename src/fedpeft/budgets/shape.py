"""The sizes of a backbone that memory, step time and uplink depend on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fedpeft.resources import ClientResources

if TYPE_CHECKING:
    from torch import nn

DEFAULT_RANK = 8  # of the methods' LoRA, where a client's resources name none
NAME_BYTES = 192  # of a message's header: one tensor's name, dtype, shape and offsets
MESSAGE_BYTES = 512  # of a message's header: scalars and ids


@dataclass(frozen=True)
class ModelShape:
    """A frozen backbone with LoRA on every linear layer of its blocks, and a classification head."""

    parameters: int  # frozen
    weight_bytes: int  # of the frozen parameters, in the backbone's dtype
    element_bytes: int  # of one activation
    blocks: int
    width: int
    intermediate: int  # the widest input of a linear layer in a block
    heads: int
    attention: str  # implementation: "eager" keeps attention maps for the backward pass, "sdpa" does not
    head_parameters: int
    linear: dict[str, tuple[int, int]]  # (d_in, d_out) by name inside a block

    def list_top_blocks(self, count: int) -> tuple[int, ...]:
        """The numbers of the topmost `count` blocks, counted from 0 at the bottom."""
        return tuple(range(self.blocks - count, self.blocks))

    def count_backward_blocks(self, resources: ClientResources) -> int:
        """How many blocks backpropagation passes: from the lowest adapted one to the top."""
        return self.blocks - min(resources.layers) if resources.layers else self.blocks

    def count_adapted_blocks(self, resources: ClientResources) -> int:
        """How many blocks are adapted."""
        return len(resources.layers) if resources.layers else self.blocks

    def count_trained(self, resources: ClientResources) -> int:
        """How many parameters are trained: A, the fraction `density` of the rows of B, and the head."""
        rank = resources.rank or DEFAULT_RANK
        rows = sum(d_in + _count_rows(d_out, resources.density) for d_in, d_out in self.linear.values())
        return rank * rows * self.count_adapted_blocks(resources) + self.head_parameters

    def estimate_uplink_bytes(self, resources: ClientResources) -> int:
        """Bytes of one reply, an upper estimate: trained tensors in float32, which rows of B they are, names."""
        layers, is_masked = self.count_adapted_blocks(resources), resources.density < 1
        bitmaps = is_masked * layers * sum(-(-d_out // 8) for _, d_out in self.linear.values())
        tensors = (2 + is_masked) * layers * len(self.linear) + 2  # the head's weight and bias
        return 4 * self.count_trained(resources) + bitmaps + NAME_BYTES * tensors + MESSAGE_BYTES


def read_shape(model: "nn.Module", blocks: int, dimensions: Mapping[str, tuple[int, int]], head: int) -> ModelShape:
    """The shape of an adapted model: `dimensions` are (d_out, d_in) by LoRA module, `head` trained head parameters.

    The top block stands for all: a model whose blocks differ can be measured, but predictions for it are less good.
    """
    mark = f".{blocks - 1}."
    linear = {name.split(mark, 1)[1]: (d_in, d_out) for name, (d_out, d_in) in dimensions.items() if mark in name}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    config = cast(Any, model.config).get_text_config()
    return ModelShape(
        parameters=sum(p.numel() for p in frozen),
        weight_bytes=sum(p.numel() * p.element_size() for p in frozen),
        element_bytes=max(frozen, key=lambda p: p.numel()).element_size(),
        blocks=blocks,
        width=config.hidden_size,
        intermediate=max(d_in for d_in, _ in linear.values()),
        heads=config.num_attention_heads,
        attention=config._attn_implementation,
        head_parameters=head,
        linear=linear,
    )


def _count_rows(d_out: int, density: float) -> int:
    return max(1, math.ceil(density * d_out - 1e-9))  # 0.07 of 100 is 7, though 0.07 * 100 rounds above it
