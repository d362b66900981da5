"""The frozen-prefix cache: hidden states below every adapter, computed once per sequence and stored. Ours [choice].

Below the first block that is trained, edited or has a frozen delta, a sequence has the same states in every epoch,
round, method and evaluation (adapters run in eval mode, without dropout). They are stored by the sequence's tokens and
those of the sequences that it is computed with.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from fedpeft.acceleration.base import Acceleration, ClientView
from fedpeft.acceleration.frozen_blocks import count_frozen_blocks
from fedpeft.acceleration.prefix_forward import FrozenPrefix
from fedpeft.acceleration.prefix_identity import PrefixIdentities
from fedpeft.acceleration.prefix_states import FixedBatch, PrefixStates, StatesFile, TokenIds, make_fixed_batches
from fedpeft.adapters import AdaptedModel
from fedpeft.backbones import DTYPES
from fedpeft.errors import UserError
from fedpeft.units import MIB

log = logging.getLogger(__name__)
NO_BATCHES: Mapping[TokenIds, FixedBatch] = {}
BATCH_SIZE = 16  # sequences computed at once: enough to keep a processor busy, no more than evaluation takes
ALIGNMENT = 64  # bytes, of each sequence's states in the file: enough for every dtype and vector unit


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds, in sequences and bytes, and how many sequences it looked up, computed and could not store."""

    sequences: int
    used_bytes: int
    limit_bytes: int
    looked_up: int
    computed: int
    not_stored: int

    def __str__(self) -> str:
        not_stored = f", {self.not_stored:,} of them not stored for lack of room" if self.not_stored else ""
        return (
            f"{self.sequences:,} sequences in {self.used_bytes / MIB:.1f} of {self.limit_bytes / MIB:.1f} MiB; "
            f"{self.looked_up:,} looked up, {self.computed:,} computed{not_stored}"
        )


class PrefixCache(Acceleration):
    """Stores states of frozen blocks within a limit, for any number of models and threads.

    A sequence whose states are missing is computed in its fixed batch (sequences of similar length of the same split of
    a client), or alone if it has none, whichever client asks first and whether or not there is room to store it.
    Results therefore depend neither on the order of clients nor on the number of workers nor on the limit, to the bit.
    They equal those without a cache up to rounding (about 1e-6 of a state in float32), because sums are taken in
    another order. Nothing is ever evicted: states without room are computed again each time, with their whole batch,
    which costs many times what no cache does.
    """

    def __init__(self, limit_mib: float, dtype: str | None = None, folder: str | None = None) -> None:
        """Makes an empty cache of at most `limit_mib` MiB, in memory on the model's device or in a file in `folder`.

        `dtype` is what states are rounded to and stored in; None stores them as computed. The file has no name and is
        gone when the process ends. Raises `UserError` for a limit that is not positive, an unknown dtype, and a folder
        that does not exist or has less room than the limit.
        """
        if not limit_mib > 0:
            raise UserError(f"prefix cache: the limit is a positive number of MiB. Received: {limit_mib!r}")
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"prefix cache: the dtype is one of {', '.join(DTYPES)}, or None. Received: {dtype!r}")
        self._limit, self._dtype = int(limit_mib * MIB), None if dtype is None else DTYPES[dtype]
        self._file = None if folder is None else StatesFile(Path(folder), self._limit)
        self._lock = threading.Lock()
        self._states: dict[bytes, PrefixStates] = {}
        self._identities = PrefixIdentities()
        self._used = self._looked_up = self._computed = self._not_stored = 0
        self._has_logged_off = False
        self._block_counts = WeakIdKeyDictionary()  # adapted model -> the number of its frozen blocks
        self._batches = WeakIdKeyDictionary()  # client -> its fixed batches

    def is_useful(self, model: AdaptedModel) -> bool:
        """Whether any block of the model is frozen."""
        return self._count_blocks(model) > 0

    def apply(self, model: AdaptedModel, client: ClientView) -> AbstractContextManager[None]:
        """Context manager in which the model's frozen blocks return stored states of the client's examples.

        Without frozen blocks nothing changes. The model must not be cloned inside.
        """
        count = self._count_blocks(model)
        return self.enabled(model.base, count, self._get_batches(client) if count else NO_BATCHES)

    def _count_blocks(self, model: AdaptedModel) -> int:
        if model not in self._block_counts:
            self._block_counts[model] = count_frozen_blocks(model.base)
        return int(self._block_counts[model])

    def _get_batches(self, client: ClientView) -> Mapping[TokenIds, FixedBatch]:
        """The fixed batch of each of the client's sequences, made of one split; a sequence in two is of the first."""
        if client not in self._batches:
            batches: dict[TokenIds, FixedBatch] = {}
            for sequences in client.iterate_token_ids():
                batches |= make_fixed_batches((ids for ids in sequences if ids not in batches), BATCH_SIZE)
            self._batches[client] = batches
        known: Mapping[TokenIds, FixedBatch] = self._batches[client]
        return known

    @contextmanager
    def enabled(
        self, model: nn.Module, count: int, batches: Mapping[TokenIds, FixedBatch] = NO_BATCHES
    ) -> Iterator[None]:
        """Context manager in which the lowest `count` blocks of `model` return stored states.

        `count` is that of `count_frozen_blocks`; with 0 nothing changes. One thread may use the model, which must not
        be copied inside. In training mode, calls with more than tokens, mask, positions and labels (a key-value cache,
        embeddings, all hidden states), and batches with gaps between the real tokens of a row, run as without a cache.
        Positions that are not given count from each row's first real token. Raises `ValueError` when a parameter of
        these blocks is trained.
        """
        if count == 0:
            if not self._has_logged_off:
                log.info("the prefix cache is off for an adapter: nothing lies below the first block it touches")
            self._has_logged_off = True
            yield
            return
        with FrozenPrefix(model, count, self._identities.identify(model, count), self._get_states, batches).install():
            yield

    @property
    def stats(self) -> CacheStats:
        """What the cache holds and has done so far."""
        with self._lock:
            counts = (self._looked_up, self._computed, self._not_stored)
            return CacheStats(len(self._states), self._used, self._limit, *counts)

    # ---- storage

    def _get_states(
        self, keys: Sequence[bytes], compute: Callable[[int], Mapping[bytes, PrefixStates]]
    ) -> list[PrefixStates]:
        """The states stored under each key.

        For the i-th key without any, `compute(i)` returns its states and those of its batch by key; all are stored.
        """
        with self._lock:
            states = {key: self._states[key] for key in keys if key in self._states}
            self._looked_up += len(keys)
        needed = set(keys)
        for i, key in enumerate(keys):
            if key not in states:
                computed = {other: self._store(other, entry) for other, entry in compute(i).items()}
                states |= {other: entry for other, entry in computed.items() if other in needed}
        return [states[key] for key in keys]

    def _store(self, key: bytes, entry: PrefixStates) -> PrefixStates:
        """The entry in the cache's dtype, stored if there is room.

        Two threads that computed the same entry have equal bits, so that either may be stored.
        """
        entry = entry.cast(self._dtype)
        size = entry.states.numel() * entry.states.element_size()
        size += -size % ALIGNMENT
        with self._lock:
            self._computed += 1
            if key in self._states:
                return self._states[key]
            if self._used + size > self._limit:
                if not self._not_stored:
                    log.warning("the prefix cache is full at %.0f MiB: raise its limit or remove it", self._limit / MIB)
                self._not_stored += 1
                return entry
            if self._file is not None:
                try:
                    entry = entry.with_states(self._file.write(entry.states, self._used))
                except OSError as error:  # another program has filled the disk since the start
                    log.warning("the prefix cache stores no more than %d sequences: %s", len(self._states), error)
                    self._limit = self._used
                    self._not_stored += 1
                    return entry
            self._used += size
            self._states[key] = entry
            return entry
