"""What a forward was asked for, and what may stand around a block's forward."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")  # each (batch, length)
SERVED = {*PER_TOKEN, "attention_mask", "labels", "logits_to_keep", "return_dict"}


class Around:
    """In the place of a block's forward; `plain` is the forward that it calls.

    On the instance, so that hooks on the block (LoReFT's edit is one) stay outside and run once.
    """

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain


def bare(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's own forward, with nothing around it."""
    while isinstance(forward, Around):
        forward = forward.plain
    return forward


def asked(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a forward was asked for, by argument: positional ones by `names`; what is None or False is left out."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def served(given: Mapping[str, Any]) -> bool:
    """Whether a forward gives tokens and wants logits or states only: no key-value cache, no states of each block."""
    return "input_ids" in given and given.keys() <= SERVED
