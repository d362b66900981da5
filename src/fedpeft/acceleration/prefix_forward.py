"""The forwards of the frozen blocks at the bottom of a model while the frozen-prefix cache replaces them."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedpeft.acceleration.forward_wrapper import TOKEN_ARGUMENTS, ForwardWrapper, is_supported_call, unwrap_forward
from fedpeft.acceleration.prefix_states import FixedBatch, PrefixStates, TokenIds
from fedpeft.backbones.blocks import find_blocks, unwrap_block
from fedpeft.backbones.forward import bind_arguments

# get_states(keys, compute) -> the states of each key. `compute(i)` computes those of the i-th and of all sequences in
# its batch, by key.
GetStates = Callable[[Sequence[bytes], Callable[[int], Mapping[bytes, PrefixStates]]], list[PrefixStates]]


class FrozenPrefix:
    """The lowest blocks of one model, which return stored states while `install` is active.

    A sequence whose states are missing is computed in its fixed batch, or alone if it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        identity: bytes,
        get_states: GetStates,
        batches: Mapping[TokenIds, FixedBatch],
    ) -> None:
        """Takes the lowest `count` blocks of `model`; `identity` is a digest of all that decides what they compute."""
        self._model, self._identity, self._get_states, self._batches = model, identity, get_states, batches
        name, blocks = find_blocks(model)
        self._blocks = [unwrap_block(block) for block in blocks[:count]]
        self._argument_names = list(inspect.signature(model.forward).parameters)
        outside = [module for path, module in model.named_modules() if not path.startswith(f"{name}.")]
        self._modules = [*outside, *(module for block in self._blocks for module in block.modules())]
        self.output: Any = None  # what every block returns in the current forward; None: they compute
        self.is_computing_states = False  # whether the current forward computes missing states and ends after them

    @contextmanager
    def install(self) -> Iterator[None]:
        """Context manager in which the model's forwards use stored states."""
        forwards = [block.forward for block in self._blocks]
        handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        try:
            for block, forward in zip(self._blocks, forwards, strict=True):
                block.forward = _CachedBlock(self, forward, is_last=block is self._blocks[-1])
            yield
        finally:
            for block, forward in zip(self._blocks, forwards, strict=True):
                block.forward = forward
            for handle in handles:
                handle.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = bind_arguments(self._argument_names, args, kwargs)
        # In training mode one draw of dropout would be stored, and returned in evaluation, too.
        is_training = any(module.training for module in self._modules)
        self.output = self._get_output(arguments) if is_supported_call(arguments) and not is_training else None

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self.output = None

    def _get_output(self, arguments: dict[str, Any]) -> Any:
        """The output of the prefix for a batch; None for one that it must compute itself."""
        ids = arguments["input_ids"]
        is_real = arguments.get("attention_mask", torch.ones_like(ids)).cpu() != 0
        tokens = {name: arguments[name].cpu() for name in TOKEN_ARGUMENTS if name in arguments}
        if any(t.shape != is_real.shape for t in tokens.values()) or not _is_contiguous(is_real):
            return None
        names = list(tokens)
        real_tokens = torch.stack(list(tokens.values()))[:, is_real]  # (names, tokens of the batch)
        sequences = real_tokens.split(is_real.sum(-1).tolist(), 1)  # (names, length) each
        batches = [self._find_batch(names, sequence) for sequence in sequences]
        prefix = self._identity + f"{','.join(names)} {_get_autocast_name(ids.device.type)}".encode()

        def compute(i: int) -> dict[bytes, PrefixStates]:
            batch = batches[i]
            members = [sequences[i]] if batch is None else [_make_tokens(s, len(names)) for s in batch.sequences]
            computed = self._compute(names, members, ids.device)
            return {_make_key(prefix, batch, member): states for member, states in zip(members, computed, strict=True)}

        keys = [_make_key(prefix, batch, sequence) for batch, sequence in zip(batches, sequences, strict=True)]
        return _join_states(self._get_states(keys, compute), is_real, ids.device)

    def _find_batch(self, names: list[str], sequence: Tensor) -> FixedBatch | None:
        """The fixed batch of a sequence (names, length); None if it has more than tokens and positions from 0."""
        if names not in (["input_ids"], ["input_ids", "position_ids"]):
            return None
        counts_from_0 = all(torch.equal(positions, torch.arange(len(positions))) for positions in sequence[1:])
        return self._batches.get(tuple(sequence[0].tolist())) if counts_from_0 else None

    def _compute(self, names: list[str], sequences: Sequence[Tensor], device: torch.device) -> list[PrefixStates]:
        """The states of these sequences, (names, length) each, computed in a batch of their own.

        Not in inference mode, because a later training step could not keep its tensors for the backward pass; and not
        through the model's hooks, because their state belongs to the batch that asked.
        """
        with torch.inference_mode(False), torch.no_grad():
            lengths = [sequence.shape[1] for sequence in sequences]
            tokens = torch.zeros(len(names), len(sequences), max(lengths), dtype=torch.long)
            mask = torch.zeros_like(tokens[0])  # (sequences, longest)
            for i, sequence in enumerate(sequences):
                tokens[:, i, : lengths[i]], mask[i, : lengths[i]] = sequence, 1
            self.is_computing_states = True
            try:
                self._model.forward(**dict(zip(names, tokens.to(device), strict=True)), attention_mask=mask.to(device))
            except _StopForward as stop:
                output = stop.output
            finally:
                self.is_computing_states = False
            states, tuple_size = (output[0], len(output)) if isinstance(output, tuple) else (output, 0)
            return [
                PrefixStates(row[:length].clone(), row.dtype, tuple_size)
                for row, length in zip(states, lengths, strict=True)
            ]


class _StopForward(Exception):
    """Ends a forward after the prefix, whose output it carries."""

    def __init__(self, output: Any) -> None:
        self.output = output


class _CachedBlock(ForwardWrapper):
    """A block's forward that returns the prefix's output where that is known."""

    def __init__(self, prefix: FrozenPrefix, wrapped: Callable[..., Any], is_last: bool) -> None:
        super().__init__(wrapped)
        self._prefix, self._is_last = prefix, is_last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._prefix.output is not None:
            return self._prefix.output
        if not self._prefix.is_computing_states:
            return self.wrapped(*args, **kwargs)
        output = unwrap_forward(self)(*args, **kwargs)  # other wrappers hold the state of the batch that asked
        if self._is_last:
            raise _StopForward(output)
        return output


def _join_states(entries: Sequence[PrefixStates], is_real: Tensor, device: torch.device) -> Any:
    """The output of the prefix for the batch whose sequences have these states; `is_real` (batch, length) bool."""
    dtype, tuple_size = entries[0].dtype, entries[0].tuple_size
    stored = [entry.states for entry in entries]
    if any(states.device != stored[0].device for states in stored):  # several GPUs computed them
        stored = [states.to(device) for states in stored]
    flat = torch.cat(stored).to(device, dtype)  # (tokens of the batch, width)
    if not bool(is_real.all()):
        positions = is_real.flatten().nonzero().squeeze(1).to(device)
        flat = flat.new_zeros(is_real.numel(), flat.shape[1]).index_copy_(0, positions, flat)
    states = flat.view(*is_real.shape, -1)  # (batch, length, width), zero on padding
    return (states, *[None] * (tuple_size - 1)) if tuple_size else states


def _make_tokens(ids: TokenIds, count: int) -> Tensor:
    """A sequence (count, length): its ids, and as the second row, if `count` is 2, their positions from 0."""
    return torch.tensor([ids, range(len(ids))][:count])


def _make_key(prefix: bytes, batch: FixedBatch | None, sequence: Tensor) -> bytes:
    digest = b"" if batch is None else batch.digest
    return hashlib.blake2b(prefix + digest + sequence.numpy().tobytes(), digest_size=32).digest()


def _get_autocast_name(device_type: str) -> str:
    return str(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else ""


def _is_contiguous(is_real: Tensor) -> bool:
    """Whether every row of (batch, length) has real tokens, all side by side."""
    is_previous_real = nn.functional.pad(is_real, (1, 0))[:, :-1]
    return bool(((is_real & ~is_previous_real).sum(-1) == 1).all())
