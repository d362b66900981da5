"""Which blocks at the bottom of a model are frozen, and their forward while a cache serves them."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from fedpeft.acceleration.forward_wrapper import PER_TOKEN, ForwardWrapper, is_supported_call, unwrap_forward
from fedpeft.adapters.kind import OutputEdit
from fedpeft.backbones.blocks import find_blocks, unwrap_block
from fedpeft.backbones.forward import bind_arguments

Blocks = tuple[str, nn.ModuleList]


def count_frozen_blocks(model: nn.Module) -> int:
    """How many blocks at the bottom compute the same whatever is trained or merged.

    A block whose output LoReFT edits counts: its computation comes before the edit. Blocks count from the first up to
    one with an adapter inside; 0 when anything in front of the blocks, or beside them in the backbone, has one. Raises
    `UserError` when the blocks cannot be found.
    """
    name, blocks = find_blocks(model)
    top, seen, count = name.split(".")[0], False, len(blocks)
    for path, module in model.named_modules():
        seen = seen or path == name
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        if path.startswith(f"{name}."):
            block = int(path.removeprefix(f"{name}.").split(".")[0])
            count = min(count, block + 1 if module is blocks[block] and isinstance(module, OutputEdit) else block)
        elif not seen or path.split(".")[0] == top:
            return 0
    return count


def find_frozen_tensors(model: nn.Module, found: Blocks, count: int) -> Iterator[tuple[str, Tensor]]:
    """Parameters and their names: of the lowest `count` blocks, and of all outside the blocks that has no adapter."""
    name, blocks = found
    for i, block in enumerate(blocks[:count]):
        yield from ((f"{name}.{i}.{inner}", parameter) for inner, parameter in unwrap_block(block).named_parameters())
    adapted = [
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for path, parameter in model.named_parameters():
        if not path.startswith((f"{name}.", *adapted)):
            yield path, parameter


@dataclass(frozen=True)
class PrefixStates:
    """The states (length, width) of one row's tokens as they leave the prefix."""

    states: Tensor
    dtype: torch.dtype  # as the block gave them
    parts: int  # the block returns a tuple of so many things; 0: the states alone

    def cast(self, dtype: torch.dtype | None) -> "PrefixStates":
        """The same, rounded to `dtype`."""
        return self if dtype is None else self.with_states(self.states.to(dtype))

    def with_states(self, states: Tensor) -> "PrefixStates":
        """The same with the states in another place."""
        return replace(self, states=states)


@dataclass(frozen=True)
class FixedBatch:
    """Rows of tokens that are always computed together, so that their bits do not depend on who asks first."""

    rows: tuple[tuple[int, ...], ...]

    @cached_property
    def digest(self) -> bytes:
        """Of all rows: the same row in another company is another row."""
        return hashlib.blake2b(repr(self.rows).encode(), digest_size=16).digest()


def make_fixed_batches(rows: Iterable[tuple[int, ...]], size: int) -> dict[tuple[int, ...], FixedBatch]:
    """Each row's company: rows of like length, `size` at a time."""
    alike = sorted(dict.fromkeys(rows), key=len)
    every = [FixedBatch(tuple(alike[start : start + size])) for start in range(0, len(alike), size)]
    return {row: company for company in every for row in company.rows}


class Store(Protocol):
    """Where states are kept; `PrefixCache` is one."""

    def states(
        self, keys: Sequence[bytes], compute: Callable[[int], Mapping[bytes, PrefixStates]]
    ) -> list[PrefixStates]: ...


class _StopForward(Exception):
    """Ends a forward that has left the prefix."""

    def __init__(self, output: Any) -> None:
        self.output = output


class FrozenPrefix:
    """The lowest blocks of one model while a store serves them; `identity` names them in the store.

    A row that is missing is computed with its company, and alone if it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        identity: bytes,
        store: Store,
        company: Mapping[tuple[int, ...], FixedBatch],
    ) -> None:
        self._model, self._identity, self._store, self._company = model, identity, store, company
        self._blocks = [unwrap_block(block) for block in find_blocks(model)[1][:count]]
        self._argument_names = list(inspect.signature(model.forward).parameters)
        self.returned: Any = None  # what the blocks return in this forward; None: they compute
        self.filling = False  # whether missing rows run, through the prefix only

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Until the end of the block the model's forwards ask the store."""
        plain = [block.forward for block in self._blocks]
        hooks = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        try:
            for block, forward in zip(self._blocks, plain, strict=True):
                block.forward = _CachedBlock(self, forward, last=block is self._blocks[-1])
            yield
        finally:
            for block, forward in zip(self._blocks, plain, strict=True):
                block.forward = forward
            for hook in hooks:
                hook.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = bind_arguments(self._argument_names, args, kwargs)
        self.returned = self._look_up(given) if is_supported_call(given) else None

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self.returned = None

    def _look_up(self, given: dict[str, Any]) -> Any:
        ids = given["input_ids"]
        real = given.get("attention_mask", torch.ones_like(ids)).cpu() != 0
        tokens = {name: given[name].cpu() for name in PER_TOKEN if name in given}
        if any(t.shape != real.shape for t in tokens.values()) or not _in_one_piece(real):
            return None
        chosen = torch.stack(list(tokens.values()))[:, real]  # (kinds, tokens of the batch)
        rows = chosen.split(real.sum(-1).tolist(), 1)  # (kinds, length) each
        company = [self._company_of(list(tokens), row) for row in rows]
        prefix = self._identity + f"{','.join(tokens)} {_autocast(ids.device.type)}".encode()

        def compute(i: int) -> dict[bytes, PrefixStates]:
            own = company[i]
            mates = [rows[i]] if own is None else [_counted(row, len(tokens)) for row in own.rows]
            computed = self._compute(list(tokens), mates, ids.device)
            return {_key(prefix, own, row): states for row, states in zip(mates, computed, strict=True)}

        found = self._store.states([_key(prefix, *of) for of in zip(company, rows, strict=True)], compute)
        flat = torch.cat([row.states for row in found]).to(ids.device, found[0].dtype)  # (tokens of the batch, width)
        if not bool(real.all()):
            places = real.flatten().nonzero().squeeze(1).to(ids.device)
            flat = flat.new_zeros(real.numel(), flat.shape[1]).index_copy_(0, places, flat)
        states = flat.view(*real.shape, -1)  # (batch, length, width), zero on padding
        return (states, *[None] * (found[0].parts - 1)) if found[0].parts else states

    def _company_of(self, names: list[str], row: Tensor) -> FixedBatch | None:
        """Of a row (kinds, length) that gives nothing but tokens and positions counted from 0."""
        if names not in (["input_ids"], ["input_ids", "position_ids"]):
            return None
        company = self._company.get(tuple(row[0].tolist()))
        counted = all(torch.equal(positions, torch.arange(len(positions))) for positions in row[1:])
        return company if counted else None

    def _compute(self, names: list[str], rows: Sequence[Tensor], device: torch.device) -> list[PrefixStates]:
        """These rows (kinds, length) by themselves, so that their bits depend on nothing else.

        Outside of inference mode, whose tensors no later step could keep for its backward pass, and past the model's
        hooks, which belong to the batch.
        """
        with torch.inference_mode(False), torch.no_grad():
            lengths = [row.shape[1] for row in rows]
            whole = torch.zeros(len(names), len(rows), max(lengths), dtype=torch.long)
            mask = torch.zeros_like(whole[0])  # (rows, length)
            for i, row in enumerate(rows):
                whole[:, i, : lengths[i]], mask[i, : lengths[i]] = row, 1
            inputs = dict(zip(names, whole.to(device), strict=True))
            self.filling = True
            try:
                self._model.forward(**inputs, attention_mask=mask.to(device))
            except _StopForward as reached:
                output = reached.output
            finally:
                self.filling = False
            states, parts = (output[0], len(output)) if isinstance(output, tuple) else (output, 0)
            return [
                PrefixStates(own[:length].clone(), own.dtype, parts)
                for own, length in zip(states, lengths, strict=True)
            ]


class _CachedBlock(ForwardWrapper):
    """A block's forward that returns what was kept, where there is something for this batch."""

    def __init__(self, prefix: FrozenPrefix, plain: Callable[..., Any], last: bool) -> None:
        super().__init__(plain)
        self._prefix, self._last = prefix, last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._prefix.returned is not None:
            return self._prefix.returned
        if not self._prefix.filling:
            return self.wrapped(*args, **kwargs)
        output = unwrap_forward(self)(*args, **kwargs)  # what else stands around the block belongs to the batch
        if self._last:
            raise _StopForward(output)
        return output


def _counted(ids: tuple[int, ...], kinds: int) -> Tensor:
    """(kinds, length): the tokens and, as the second kind, their positions from 0."""
    return torch.tensor([ids, range(len(ids))][:kinds])


def _key(prefix: bytes, company: FixedBatch | None, row: Tensor) -> bytes:
    known = b"" if company is None else company.digest
    return hashlib.blake2b(prefix + known + row.numpy().tobytes(), digest_size=32).digest()


def _autocast(kind: str) -> str:
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""


def _in_one_piece(real: Tensor) -> bool:
    """Whether the real tokens of every row of (batch, length) are side by side, and there are any."""
    before = nn.functional.pad(real, (1, 0))[:, :-1]
    return bool(((real & ~before).sum(-1) == 1).all())
