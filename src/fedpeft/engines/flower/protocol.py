"""A request to a site, or its answer, as bytes: 4 bytes little-endian length, a JSON header, then the parts. No torch.

The header says what is asked or answered and how long each part is; a part is an encoded message
(`fedpeft.federation.message`) or a client's encoded state.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1
MOST_HEADER_BYTES = 2**22  # an experiment's settings and scores of many clients
MOST_PARTS = 100_000
_LENGTH = struct.Struct("<I")


def pack(header: Mapping[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """The header and the parts as bytes."""
    text = json.dumps({**header, "version": VERSION, "parts": [len(part) for part in parts]}).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *parts))


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The inverse of `pack`. Raises ValueError, in one short line, when the bytes are none of this version."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        if length > min(MOST_HEADER_BYTES, len(data) - _LENGTH.size):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length].decode("utf-8"))
    except (struct.error, ValueError, RecursionError) as error:
        raise ValueError(f"not a request or answer of fedpeft ({str(error)[:100]}), {len(data)} bytes") from error
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else None
        raise ValueError(f"it speaks version {str(version)[:20]} of the protocol, this is {VERSION}: update the older")
    return header, _split(data, _LENGTH.size + length, header.pop("parts", None))


def _split(data: bytes, start: int, lengths: Any) -> list[bytes]:
    if not isinstance(lengths, list) or len(lengths) > MOST_PARTS:
        raise ValueError("its header does not say how long its parts are")
    if any(type(length) is not int or length < 0 for length in lengths) or start + sum(lengths) != len(data):
        raise ValueError(f"its parts are not those that its header states, {len(data)} bytes")
    parts = []
    for length in lengths:
        parts.append(data[start : start + length])
        start += length
    return parts
