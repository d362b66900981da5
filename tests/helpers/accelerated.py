"""What tests of accelerations observe in a model, and the client that they pass."""

from dataclasses import dataclass

import torch

from fedpeft.backbones.blocks import find_blocks, unwrap_block


@dataclass(eq=False)
class FakeClient:
    """The part of a client that accelerations read; `splits` are lists of token ids."""

    uses_checkpointing: bool = False
    splits: tuple = ()

    def iterate_token_ids(self):
        yield from self.splits


def get_blocks(model):
    """The transformer blocks of an `AdaptedModel`, without the adapters around them."""
    return [unwrap_block(block) for block in find_blocks(model.base)[1]]


def record_attention(model):
    """A list that grows by a block's number whenever that block's attention runs."""
    runs = []
    for i, block in enumerate(get_blocks(model)):
        attention = next(module for module in block.modules() if "Attention" in type(module).__name__)
        attention.register_forward_hook(lambda *_, i=i: runs.append(i))
    return runs


def record_shapes(model):
    """A list that grows by the input's shape, without its width, whenever the first linear layer of a block runs."""
    shapes = []
    for block in get_blocks(model):
        linear = next(m for m in block.modules() if hasattr(m, "weight") and "Norm" not in type(m).__name__)
        linear.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[:-1])))
    return shapes


def have_equal_bits(actual, expected):
    """Whether two results of `step` are equal to the bit."""
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)
