"""The sizes of a backbone that memory, time and uplink depend on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from fedpeft.resources import ClientResources

if TYPE_CHECKING:
    from torch import nn

DEFAULT_RANK = 8  # of the methods' LoRA, where an allotment names none


@dataclass(frozen=True)
class ModelShape:
    """A frozen backbone with LoRA on every linear layer of its blocks, and a classification head."""

    parameters: int  # frozen
    weight_bytes: int  # of those, in the backbone's dtype
    element_bytes: int  # of one activation
    blocks: int
    width: int
    intermediate: int  # the widest input of a linear layer in a block
    heads: int
    kv_heads: int
    vocabulary: int
    attention: str  # implementation: "eager" keeps attention maps for the backward pass, "sdpa" does not
    head_parameters: int
    linear: dict[str, tuple[int, int]]  # (d_in, d_out) by name inside a block

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "ModelShape":
        """The inverse of `as_dict`."""
        linear = {name: (int(d_in), int(d_out)) for name, (d_in, d_out) in plain["linear"].items()}
        return cls(**{**plain, "linear": linear})

    def top(self, count: int) -> tuple[int, ...]:
        """The numbers of the topmost `count` blocks."""
        return tuple(range(self.blocks - count, self.blocks))

    def depth(self, resources: ClientResources) -> int:
        """Blocks that backpropagation passes: from the lowest adapted one to the top."""
        return self.blocks - min(resources.layers) if resources.layers else self.blocks

    def adapted(self, resources: ClientResources) -> int:
        """How many blocks are adapted."""
        return len(resources.layers) if resources.layers else self.blocks

    def trained(self, resources: ClientResources) -> int:
        """Trained parameters, head included: A, the rows of B that density leaves, and the head."""
        rank = resources.rank or DEFAULT_RANK
        rows = sum(d_in + _rows(d_out, resources.density) for d_in, d_out in self.linear.values())
        return rank * rows * self.adapted(resources) + self.head_parameters

    def uplink_bytes(self, resources: ClientResources) -> int:
        """Bytes of one reply, an upper estimate: trained tensors in float32, which rows of B they are, names."""
        layers, masked = self.adapted(resources), resources.density < 1
        bitmaps = masked * layers * sum(-(-d_out // 8) for _, d_out in self.linear.values())
        tensors = (2 + masked) * layers * len(self.linear) + 2  # the head's weight and bias
        return 4 * self.trained(resources) + bitmaps + _NAME_BYTES * tensors + _MESSAGE_BYTES


_NAME_BYTES = 192  # one tensor's name, dtype, shape and offsets in a header
_MESSAGE_BYTES = 512  # scalars and ids


def _rows(d_out: int, density: float) -> int:
    return max(1, math.ceil(density * d_out - 1e-9))


def read_shape(model: "nn.Module", blocks: int, dimensions: Mapping[str, tuple[int, int]], head: int) -> ModelShape:
    """The shape of an adapted model: `dimensions` are (d_out, d_in) by LoRA module, `head` trained head parameters.

    The top block stands for all; a model whose blocks differ is measured all the same, only predicted less well.
    """
    mark = f".{blocks - 1}."
    linear = {name.split(mark, 1)[1]: (d_in, d_out) for name, (d_out, d_in) in dimensions.items() if mark in name}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    config = cast(Any, model.config).get_text_config()
    kv_heads = config.to_dict().get("num_key_value_heads") or config.num_attention_heads
    return ModelShape(
        parameters=sum(p.numel() for p in frozen),
        weight_bytes=sum(p.numel() * p.element_size() for p in frozen),
        element_bytes=max(frozen, key=lambda p: p.numel()).element_size(),
        blocks=blocks,
        width=config.hidden_size,
        intermediate=max(d_in for d_in, _ in linear.values()),
        heads=config.num_attention_heads,
        kv_heads=kv_heads,
        vocabulary=config.vocab_size,
        attention=config._attn_implementation,
        head_parameters=head,
        linear=linear,
    )
