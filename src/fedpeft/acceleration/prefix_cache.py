"""Hidden states that no adapter touches, computed once per row and kept: the frozen-prefix cache. Ours [choice].

Below the first block that is trained, edited or merged into, a row gives the same states in every epoch, round and
method, and in evaluation (adapters run in eval mode, without dropout). They are kept by the row's tokens, and by those
of the rows that it was computed with.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fedpeft.acceleration.base import Acceleration, Turn
from fedpeft.acceleration.padding_free_attention import get_plain_attention
from fedpeft.acceleration.prefix_blocks import (
    FixedBatch,
    FrozenPrefix,
    PrefixStates,
    count_frozen_blocks,
    find_frozen_tensors,
    make_fixed_batches,
)
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones import DTYPES
from fedpeft.backbones.blocks import find_blocks
from fedpeft.environment import MIB
from fedpeft.errors import UserError

log = logging.getLogger(__name__)
NO_BATCHES: Mapping[tuple[int, ...], FixedBatch] = {}
TOGETHER = 16  # examples computed at once: enough to keep a processor busy, no more than evaluation takes
ALIGNED = 64  # bytes: where a row begins in the file, for every dtype and vector unit


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds and has done: rows, bytes, and rows looked up, computed and computed but not kept."""

    rows: int
    used: int
    limit: int
    looked_up: int
    computed: int
    not_stored: int

    def __str__(self) -> str:
        full = f", {self.not_stored:,} of them not kept for want of room" if self.not_stored else ""
        return (
            f"{self.rows:,} rows in {self.used / MIB:.1f} of {self.limit / MIB:.1f} MiB; "
            f"{self.looked_up:,} looked up, {self.computed:,} computed{full}"
        )


class PrefixCache(Acceleration):
    """Keeps states within `limit_mib`, for any number of models and threads.

    Each missing row is computed with its company (rows of like length of the same client, say), or alone where none is
    given, whoever asks first and whether or not there is room for it. So results depend neither on the order of clients
    nor on the number of workers nor on the limit, to the bit. They are those without a cache but for rounding (about
    1e-6 of a state in float32): sums are taken in another order. Nothing is ever thrown out; what has no room is
    computed again each time with all its company, which costs many times what no cache does.

    `dtype` (bfloat16, say) is what states are kept in, and rounds them; None keeps them as computed. They lie on the
    model's device, or with `folder` in a nameless file there, mapped into memory and gone with the process. Raises
    `UserError` for a limit that is not positive, or a folder that is not there or has less room than the limit.
    """

    def __init__(self, limit_mib: float, dtype: str | None = None, folder: str | None = None) -> None:
        if not limit_mib > 0:
            raise UserError(f"prefix cache: the limit is a positive number of MiB. Received: {limit_mib!r}")
        self.limit, self.dtype = int(limit_mib * MIB), None if dtype is None else DTYPES[dtype]
        self._file = None if folder is None else _File(Path(folder), self.limit)
        self._lock = threading.Lock()
        self._rows: dict[bytes, PrefixStates] = {}
        self._digests = WeakIdKeyDictionary()  # frozen tensor -> (its version, digest of its values)
        self._used = self._looked_up = self._computed = self._not_stored = 0
        self._told = False
        self._blocks = WeakIdKeyDictionary()  # adapted model -> its frozen blocks
        self._batches = WeakIdKeyDictionary()  # client -> its fixed batches

    def is_useful(self, model: AdaptedModel) -> bool:
        """Whether any block of the model is frozen."""
        return self._count_blocks(model) > 0

    def apply(self, model: AdaptedModel, client: Turn) -> AbstractContextManager[None]:
        """Context manager in which the model's frozen blocks return kept states for the client's examples; without
        such blocks nothing changes. Do not clone the model inside."""
        blocks = self._count_blocks(model)
        return self.enabled(model.base, blocks, self._get_batches(client) if blocks else NO_BATCHES)

    def _count_blocks(self, model: AdaptedModel) -> int:
        if model not in self._blocks:
            self._blocks[model] = count_frozen_blocks(model.base)
        return int(self._blocks[model])

    def _get_batches(self, client: Turn) -> Mapping[tuple[int, ...], FixedBatch]:
        """With which other examples of its split each one is computed, by its tokens."""
        if client not in self._batches:
            found: dict[tuple[int, ...], FixedBatch] = {}
            for rows in client.token_rows():
                found |= make_fixed_batches((row for row in rows if row not in found), TOGETHER)
            self._batches[client] = found
        batches: Mapping[tuple[int, ...], FixedBatch] = self._batches[client]
        return batches

    @contextmanager
    def enabled(
        self, model: nn.Module, blocks: int, company: Mapping[tuple[int, ...], FixedBatch] = NO_BATCHES
    ) -> Iterator[None]:
        """Until the end of the block the lowest `blocks` blocks of `model` return kept states.

        `blocks` as `frozen_blocks` counts them; with 0 nothing changes. One thread may use the model, which must not be
        copied meanwhile. A call that gives more than tokens, mask, positions and labels (a key-value cache, embeddings,
        a wish for all hidden states) runs as without a cache, and so does one with a row in more than one piece.
        Positions that are not given count from each row's first real token. Raises `ValueError` when a parameter of
        these blocks is trained.
        """
        if blocks == 0:
            if not self._told:
                log.info("the prefix cache is off for an adapter: nothing lies below the first block it touches")
            self._told = True
            yield
            return
        with FrozenPrefix(model, blocks, self._identity(model, blocks), self, company).installed():
            yield

    @property
    def stats(self) -> CacheStats:
        """What the cache holds and has done so far."""
        with self._lock:
            counts = (self._looked_up, self._computed, self._not_stored)
            return CacheStats(len(self._rows), self._used, self.limit, *counts)

    def states(
        self, keys: Sequence[bytes], compute: Callable[[int], Mapping[bytes, PrefixStates]]
    ) -> list[PrefixStates]:
        """What was kept under each key; where there is nothing for the i-th, `compute(i)` gives it and its company's by
        their keys, now kept."""
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            self._looked_up += len(keys)
        wanted = set(keys)
        for i, key in enumerate(keys):
            if key not in found:
                kept = {of: self._kept(of, row) for of, row in compute(i).items()}
                found |= {of: row for of, row in kept.items() if of in wanted}
        return [found[key] for key in keys]

    def _kept(self, key: bytes, row: PrefixStates) -> PrefixStates:
        """The row in the cache's dtype and place. Two threads that computed it hold equal bits: either may stay."""
        row = row.cast(self.dtype)
        size = row.states.numel() * row.states.element_size()
        size += -size % ALIGNED
        with self._lock:
            self._computed += 1
            if key in self._rows:
                return self._rows[key]
            if self._used + size > self.limit:
                if not self._not_stored:
                    log.warning("the prefix cache is full at %.0f MiB: give it more or leave it out", self.limit / MIB)
                self._not_stored += 1
                return row
            if self._file is not None:
                try:
                    row = row.with_states(self._file.write(row.states, self._used))
                except OSError as error:  # others filled the disk since the start
                    log.warning("the prefix cache keeps nothing more than its %d rows: %s", len(self._rows), error)
                    self.limit = self._used
                    self._not_stored += 1
                    return row
            self._used += size
            self._rows[key] = row
            return row

    # ---- which frozen prefix it is

    def _identity(self, model: nn.Module, blocks: int) -> bytes:
        """A digest of all that decides what the prefix computes: equal for copies of one backbone, loaded or shared."""
        digest = hashlib.blake2b(digest_size=32)
        config: Any = model.config
        settings = (blocks, get_plain_attention(str(config._attn_implementation)), torch.get_num_threads())
        digest.update(json.dumps([config.to_dict(), settings], sort_keys=True, default=str).encode())
        for name, tensor in find_frozen_tensors(model, find_blocks(model), blocks):
            if tensor.requires_grad:
                raise ValueError(f"What a prefix cache keeps is frozen. Received: {name} is trained")
            digest.update(self._digest(tensor))
        return digest.digest()

    def _digest(self, tensor: Tensor) -> bytes:
        """Of the values, once for each tensor: clones share theirs."""
        with self._lock:
            known = self._digests.get(tensor)
            if known is None or known[0] != tensor._version:
                values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
                digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
                digest.update(values.numpy().data)
                known = self._digests[tensor] = (tensor._version, digest.digest())
            return known[1]


class _File:
    """`size` bytes of a file without a name, mapped into memory."""

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UserError(f"prefix cache: the folder is not there. Received: {folder}")
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"prefix cache: {folder} has {free / MIB:.0f} MiB free, the limit is {size / MIB:.0f} MiB. "
                "Give a lower limit or another folder."
            )
        # Written as a file and read as memory: on a full disk `write` raises, a mapped page would kill the process.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (open as long as the cache)
        self._bytes = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(size,))

    def write(self, tensor: Tensor, at: int) -> Tensor:
        """The same values, read from the file. Raises OSError when the disk is full."""
        values = tensor.cpu().contiguous()
        size = values.numel() * values.element_size()
        self._file.seek(at)
        left = values.view(-1).view(torch.uint8).numpy().data
        while len(left):  # an almost full disk takes a part and says how much; the next call raises
            left = left[self._file.write(left) :]
        return torch.from_numpy(self._bytes[at : at + size]).view(values.dtype).view(values.shape)
