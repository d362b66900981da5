"""Our bytes inside Flower's records: one uint8 array, so that no dtype of ours goes through NumPy."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

_ARRAY, _RECORD, _HEADER = "bytes", "fedpeft", "header"


def wrap(data: bytes, **header: str | int) -> RecordDict:
    """The bytes as a message's content; `header` says beside them, for whoever looks, what they are."""
    array = Array(np.frombuffer(data, dtype=np.uint8))
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array}), _HEADER: ConfigRecord(dict(header))})


def unwrap(content: RecordDict) -> bytes:
    """The bytes of a message's content. Raises ValueError where it has none of ours."""
    try:
        record: Any = content[_RECORD]
        array = record[_ARRAY].numpy()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("a message that does not come from fedpeft") from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"a message whose array is {array.dtype} {array.shape}")
    return array.tobytes()
