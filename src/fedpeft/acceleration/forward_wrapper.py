"""Wrapped block forwards, and the calls and attention functions that accelerations must recognise."""

from collections.abc import Callable, Mapping
from typing import Any

TOKEN_ARGUMENTS = ("input_ids", "token_type_ids", "position_ids")  # each (batch, length)
SUPPORTED_ARGUMENTS = {*TOKEN_ARGUMENTS, "attention_mask", "labels", "logits_to_keep", "return_dict"}

_original_attention: dict[str, str] = {}  # substitute attention function -> the function whose results it gives


class ForwardWrapper:
    """Takes the place of a block's forward; `wrapped` is the forward that it replaces.

    It is set on the instance (`block.forward = wrapper`), so that the block's hooks, LoReFT's edit among them, stay
    outside and run once.
    """

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        self.wrapped = wrapped


def unwrap_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's own forward, without the wrappers around it."""
    while isinstance(forward, ForwardWrapper):
        forward = forward.wrapped
    return forward


def is_supported_call(arguments: Mapping[str, Any]) -> bool:
    """Whether a call passes tokens and wants no more than logits or last states: no key-value cache, for example."""
    return "input_ids" in arguments and arguments.keys() <= SUPPORTED_ARGUMENTS


def register_substitute_attention(name: str, original: str) -> None:
    """Declares that the attention function `name` gives the results of `original`."""
    _original_attention[name] = original


def get_original_attention(name: str) -> str:
    """The attention function whose results the function `name` gives: itself, unless it is a registered substitute."""
    return _original_attention.get(name, name)
