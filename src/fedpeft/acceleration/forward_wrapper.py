"""What a forward was asked for, and what may stand around a block's forward."""

from collections.abc import Callable, Mapping
from typing import Any

PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")  # each (batch, length)
SUPPORTED_ARGUMENTS = {*PER_TOKEN, "attention_mask", "labels", "logits_to_keep", "return_dict"}


class ForwardWrapper:
    """In the place of a block's forward; `plain` is the forward that it calls.

    On the instance, so that hooks on the block (LoReFT's edit is one) stay outside and run once.
    """

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.wrapped = plain


def unwrap_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's own forward, with nothing around it."""
    while isinstance(forward, ForwardWrapper):
        forward = forward.wrapped
    return forward


def is_supported_call(given: Mapping[str, Any]) -> bool:
    """Whether a forward gives tokens and wants logits or states only: no key-value cache, no states of each block."""
    return "input_ids" in given and given.keys() <= SUPPORTED_ARGUMENTS
