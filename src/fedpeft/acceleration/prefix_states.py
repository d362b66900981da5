"""What the frozen-prefix cache stores: the states of single sequences, the batches that they are computed in, and the
file that may hold them."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpeft.errors import UserError
from fedpeft.units import MIB

TokenIds = tuple[int, ...]  # of one sequence, without padding


@dataclass(frozen=True)
class PrefixStates:
    """The states (length, width) of one sequence as they leave the prefix."""

    states: Tensor
    dtype: torch.dtype  # of the last block's output, whatever the states are stored in
    tuple_size: int  # of the last block's output; 0 where it is the states alone

    def cast(self, dtype: torch.dtype | None) -> "PrefixStates":
        """The same states rounded to `dtype`; None leaves them as they are."""
        return self if dtype is None else self.with_states(self.states.to(dtype))

    def with_states(self, states: Tensor) -> "PrefixStates":
        """A copy that holds `states` instead."""
        return replace(self, states=states)


@dataclass(frozen=True)
class FixedBatch:
    """Sequences that are always computed together, so that their bits do not depend on which is needed first."""

    sequences: tuple[TokenIds, ...]

    @cached_property
    def digest(self) -> bytes:
        """A digest of all sequences: a sequence has other bits, and so another key, in another batch."""
        return hashlib.blake2b(repr(self.sequences).encode(), digest_size=16).digest()


def make_fixed_batches(sequences: Iterable[TokenIds], size: int) -> dict[TokenIds, FixedBatch]:
    """The batch of each sequence: `size` sequences of similar length, fewer in the last one."""
    by_length = sorted(dict.fromkeys(sequences), key=len)
    batches = [FixedBatch(tuple(by_length[start : start + size])) for start in range(0, len(by_length), size)]
    return {sequence: batch for batch in batches for sequence in batch.sequences}


class StatesFile:
    """A file of `size` bytes without a name, written as a file and read as memory; gone when the process ends."""

    def __init__(self, folder: Path, size: int) -> None:
        """Raises `UserError` when `folder` does not exist or has less than `size` bytes free."""
        if not folder.is_dir():
            raise UserError(f"prefix cache: the folder does not exist. Received: {folder}")
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"prefix cache: {folder} has {free / MIB:.0f} MiB free, the limit is {size / MIB:.0f} MiB. "
                "Give a lower limit or another folder."
            )
        # On a full disk `write` raises an error, where writing to a mapped page would kill the process.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (open as long as the cache)
        self._bytes = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(size,))

    def write(self, tensor: Tensor, offset: int) -> Tensor:
        """Writes a tensor at `offset` bytes; returns the same values mapped from the file.

        Raises `OSError` when the disk is full.
        """
        values = tensor.cpu().contiguous()
        size = values.numel() * values.element_size()
        self._file.seek(offset)
        unwritten = values.view(-1).view(torch.uint8).numpy().data
        while len(unwritten):  # an almost full disk takes a part and returns its size; the next call raises
            unwritten = unwritten[self._file.write(unwritten) :]
        return torch.from_numpy(self._bytes[offset : offset + size]).view(values.dtype).view(values.shape)
