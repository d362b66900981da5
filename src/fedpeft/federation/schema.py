"""The schema of a message: what one may hold, whoever made it, before anything is computed from it.

The limits are far above what any method sends; they bound what one peer can make another read, keep and log.
"""

import math
from collections.abc import Mapping

from torch import Tensor, bfloat16, float16, float32, float64, int8, int16, int32, int64, nn, strided, uint8
from torch import bool as bool_

MOST_CHARACTERS = 256  # of a client's id, of a scalar's name and of its text
MOST_ROUNDS = 10**9
MOST_SCALARS = 32
MOST_TENSORS = 20_000
MOST_NAME_CHARACTERS = 512  # of a tensor
MOST_BYTES = 2**33  # of all tensors
LARGEST_NUMBER = 1e30  # of a scalar, whole or not

DTYPES = {float64, float32, bfloat16, float16, int64, int32, int16, int8, uint8, bool_}


def find_fault(client: object, round_: object, tensors: object, scalars: object) -> str | None:
    """What is wrong with the four fields of a message, or None; in one line, with what was received."""
    return _check_origin(client, round_) or _check_scalars(scalars) or _check_tensors(tensors)


def _check_origin(client: object, round_: object) -> str | None:
    if not _is_text(client, MOST_CHARACTERS) or not client:
        return f"a client's id is text of 1 to {MOST_CHARACTERS} printable characters, received {_show(client)}"
    if type(round_) is not int or not 1 <= round_ <= MOST_ROUNDS:
        return f"a round is a whole number from 1, received {_show(round_)}"
    return None


def _check_scalars(scalars: object) -> str | None:
    if not isinstance(scalars, Mapping) or len(scalars) > MOST_SCALARS:
        return f"scalars are at most {MOST_SCALARS} named values, received {_show(scalars)}"
    for name, value in scalars.items():
        if not _is_text(name, MOST_CHARACTERS):
            return f"a scalar's name is text of up to {MOST_CHARACTERS} printable characters, received {_show(name)}"
        if not (_is_number(value) or type(value) is bool or _is_text(value, MOST_CHARACTERS)):
            return f"scalar {name}: expected a finite number, true, false or a short text, received {_show(value)}"
    return None


def _check_tensors(tensors: object) -> str | None:
    if not isinstance(tensors, Mapping) or len(tensors) > MOST_TENSORS:
        return f"tensors are at most {MOST_TENSORS} named ones, received {_show(tensors)}"
    if any(type(name) is not str or len(name) > MOST_NAME_CHARACTERS for name in tensors):
        return f"a tensor's name is text of up to {MOST_NAME_CHARACTERS} characters"
    if not "".join(tensors).isprintable():
        return "a tensor's name holds characters that cannot be printed"
    size = 0
    for name, tensor in tensors.items():
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return f"{name}: expected a tensor, received {_show(tensor)}"
        if tensor.layout is not strided or tensor.dtype not in DTYPES or tensor.is_meta or tensor.is_nested:
            where = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
            return f"{name}: expected a dense tensor of numbers in memory, received {where}"
        size += tensor.nbytes
    return f"its tensors have {size} bytes, more than {MOST_BYTES}" if size > MOST_BYTES else None


def _is_text(value: object, most: int) -> bool:
    return type(value) is str and len(value) <= most and value.isprintable()


def _is_number(value: object) -> bool:
    if type(value) is float:
        return math.isfinite(value) and abs(value) <= LARGEST_NUMBER
    return type(value) is int and abs(value) <= LARGEST_NUMBER


def _show(value: object) -> str:
    """A value as a message may quote it: a short one as it is, of anything else its kind and size."""
    if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 10**20):
        return repr(value)
    if type(value) is str and len(value) <= 40:
        return ascii(value)
    size = f" of {len(value)}" if isinstance(value, str | bytes | list | tuple | Mapping) else ""
    return f"a {type(value).__name__}{size}"
