"""What travels between server and client: named tensors, named scalars, a client id and a round.

On the wire: 8 bytes little-endian length, a JSON header of that length, then one safetensors blob. No pickle, ever.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedpeft.errors import printable
from fedpeft.federation.schema import find_fault

Tensors = dict[str, Tensor]
Scalar = bool | int | float | str

_LENGTH = struct.Struct("<Q")
_FORMAT = 1
_JSON = json.JSONEncoder(separators=(",", ":"), sort_keys=True)
_FIELDS = {"format", "client", "round", "scalars"}
MOST_HEADER_BYTES = 2**16  # of the JSON, which takes twenty times its size to read
MOST_LAYOUT_BYTES = 2**22  # of safetensors' own header, in which the tensors are named


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
    """The inverse of `encode`. Raises ValueError, in one short line, when the bytes are not such a message.

    What comes back keeps to `schema`; no more than a small multiple of the bytes is held in memory.
    """
    try:
        fields, blob = _split(data)
        if fields.keys() != _FIELDS or type(fields["format"]) is not int or fields["format"] != _FORMAT:
            raise ValueError(f"its header is not one of format {_FORMAT}")
        message = Message(fields["client"], fields["round"], load(blob), fields["scalars"])
    # RuntimeError: torch's for shapes whose product overflows, Python's for JSON nested too deep
    except (struct.error, ValueError, TypeError, RuntimeError, OverflowError, SafetensorError) as error:
        reason = printable(str(error), 200)
        raise ValueError(f"Not a fedpeft message ({reason}). Received: {len(data)} bytes.") from error
    fault = find_fault(message.client, message.round, message.tensors, message.scalars)
    if fault is not None:
        raise ValueError(f"Not a fedpeft message ({fault}). Received: {len(data)} bytes.")
    return message


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's fields and the safetensors blob, once the lengths that the bytes state are checked."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if length > MOST_HEADER_BYTES or start > len(data):
        raise ValueError(f"a header of {length} bytes")
    (layout,) = _LENGTH.unpack_from(data, start)  # safetensors begins in the same way
    if layout > MOST_LAYOUT_BYTES:
        raise ValueError(f"a list of tensors of {layout} bytes")
    fields = json.loads(data[_LENGTH.size : start].decode("utf-8"))
    if not isinstance(fields, dict):
        raise ValueError("its header is not a JSON object")
    return fields, data[start:]


def wire_size(message: Message) -> int:
    """`len(encode(message))` in bytes, without copying a tensor."""
    layout = tuple((name, t.dtype, t.shape) for name, t in message.tensors.items())
    return _LENGTH.size + len(_header(message)) + _blob_size(layout)


@lru_cache(maxsize=256)
def _blob_size(layout: tuple[tuple[str, torch.dtype, torch.Size], ...]) -> int:
    # A safetensors blob's length depends on names, dtypes and shapes only: save zeros of that layout once and measure.
    return len(save({name: torch.zeros(shape, dtype=dtype) for name, dtype, shape in layout}))
