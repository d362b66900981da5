"""What travels between server and client: named tensors, named scalars, a client id and a round.

On the wire: 8 bytes little-endian length, a JSON header of that length, then one safetensors blob. No pickle, ever.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Tensors = dict[str, Tensor]
Scalar = bool | int | float | str

_LENGTH = struct.Struct("<Q")
_FORMAT = 1
_JSON = json.JSONEncoder(separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True)
class Message:
    """One message, to or from `client`, in `round` (1-based). Tensors keep their dtype, bfloat16 too."""

    client: str
    round: int
    tensors: Tensors
    scalars: Mapping[str, Scalar] = field(default_factory=dict)


Reply = Message  # the same record on its way back; `scalars` carry at least "examples" and "loss"


def _header(message: Message) -> bytes:
    fields = {
        "format": _FORMAT,
        "client": message.client,
        "round": message.round,
        "scalars": dict(message.scalars),
    }
    return _JSON.encode(fields).encode()


def encode(message: Message) -> bytes:
    """The message as bytes, exactly as a network engine sends it."""
    header = _header(message)
    blob = save({name: tensor.detach().contiguous() for name, tensor in message.tensors.items()})
    return _LENGTH.pack(len(header)) + header + blob


def decode(data: bytes) -> Message:
    """The inverse of `encode`. Raises ValueError when the bytes are not a message of this format."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        if start > len(data):
            raise ValueError("header longer than the message")
        fields = json.loads(data[_LENGTH.size : start])
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise ValueError(f"format is not {_FORMAT}")
        return Message(fields["client"], fields["round"], load(data[start:]), fields["scalars"])
    except (struct.error, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"Not a fedpeft message ({error}). Received: {len(data)} bytes.") from error


def wire_size(message: Message) -> int:
    """`len(encode(message))` in bytes, without copying a tensor."""
    layout = tuple((name, t.dtype, t.shape) for name, t in message.tensors.items())
    return _LENGTH.size + len(_header(message)) + _blob_size(layout)


@lru_cache(maxsize=256)
def _blob_size(layout: tuple[tuple[str, torch.dtype, torch.Size], ...]) -> int:
    # A safetensors blob's length depends on names, dtypes and shapes only: save zeros of that layout once and measure.
    return len(save({name: torch.zeros(shape, dtype=dtype) for name, dtype, shape in layout}))
