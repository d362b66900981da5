"""One model whose adapter and head are exchanged by copying tensors."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedpeft.adapters import merged
from fedpeft.adapters.checkpointing import checkpointing_
from fedpeft.adapters.fused_lora import fuse_
from fedpeft.adapters.masked import MaskedRows, set_rows_
from fedpeft.adapters.names import is_head, lora_pairs, merged_names, rows_name
from fedpeft.adapters.packing import pack_
from fedpeft.adapters.prefix import NOBODY, PrefixCache
from fedpeft.adapters.prefix_blocks import Company, frozen_blocks
from fedpeft.adapters.reft.model import LoReftModel

Tensors = dict[str, Tensor]


class Slot:
    """A PEFT model in eval mode (no dropout, also in training) whose trained tensors are read and written by
    name.

    The names are those of PEFT's state dict of the active adapter, without the adapter's name, head included.
    Beside them a LoRA slot holds two things that do not train: what is merged into its modules (`merge`), and which
    rows of B its masked modules train (`set_rows`). `snapshot` and `restore` carry all of it.

    What it gives lies on the CPU, wherever the model does: it travels, or is kept between rounds. What it takes may lie
    anywhere. One thread may use a slot at a time; `clone()` gives each thread its own, sharing every frozen tensor.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model.eval()
        # With the parameters in place of the values, PEFT's own naming gives name -> live parameter.
        self._parameters: dict[str, nn.Parameter] = get_peft_model_state_dict(
            model,
            state_dict=dict(model.named_parameters()),
            adapter_name=model.active_adapter,
            save_embedding_layers=False,
        )
        self.names: tuple[str, ...] = tuple(self._parameters)
        model.requires_grad_(False)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._lora: dict[str, LoraLayer] = {}
        self._masked: dict[str, MaskedRows] = {}
        for module, _, _ in lora_pairs(self.names):
            layer = model.get_submodule(module)
            assert isinstance(layer, LoraLayer)
            self._lora[module] = layer
            up = layer.lora_B[model.active_adapter]
            if isinstance(up, MaskedRows):
                self._masked[module] = up
        self._merges = any(merged.delta_of(layer) is not None for layer in self._lora.values())

    @torch.no_grad()
    def read(self) -> Tensors:
        """A copy of every trained tensor."""
        return {name: parameter.to("cpu", copy=True) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def write(self, tensors: Tensors) -> None:
        """Copy in exactly the given tensors; the others keep their values.

        Raises `ValueError`, before anything is written, for a name the slot does not have or a wrong shape.
        """
        for name, tensor in tensors.items():
            parameter = self._parameters.get(name)
            if parameter is None:
                raise ValueError(f"A slot has tensors like {self.names[0]}, and not this one. Received: {name}")
            if tensor.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(parameter.shape)}. Received: {tuple(tensor.shape)}")
        if tensors:
            torch._foreach_copy_([self._parameters[name] for name in tensors], list(tensors.values()))

    def merge(self, factors: Tensors) -> None:
        """Replaces the whole frozen update beside the trainable one; {} is none.

        For any LoRA module: `<module>.merged_A` (r, d_in) and `<module>.merged_B` (d_out, r), scale inside, any rank.
        The module's output becomes base + s B A x + merged_B merged_A x; the base weights are not written. Raises
        `ValueError`, before anything is changed, for another name, half a pair or a wrong shape.
        """
        merged.merge_(self._lora, self.model.active_adapter, factors)
        self._merges = bool(factors)

    @property
    def merged(self) -> Tensors:
        """A copy of what was merged: the factors as given, in the dtype of the trained pair.

        Of factors larger than their product the slot keeps the product alone, and gives it back as a pair with an
        identity of the smaller dimension.
        """
        return merged.factors_of(self._lora) if self._merges else {}

    def set_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Chooses which rows of the full B the masked modules train: (m,) int64 ascending, by module.

        Only the places move; what `<module>.lora_B.weight` (m, r) holds stays. Raises `ValueError`, before anything is
        changed, for a module without masked rows, a wrong number of them, or rows that B does not have.
        """
        set_rows_(self._masked, rows)

    def rows(self) -> dict[str, Tensor]:
        """A copy of the rows that train, (m,) int64 by masked module; {} for plain LoRA."""
        return {module: up.rows.to("cpu", copy=True) for module, up in self._masked.items()}

    def dimensions(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of every adapted layer, by LoRA module; {} for LoReFT."""
        return {
            module: (cast(int, layer.out_features), cast(int, layer.in_features))
            for module, layer in self._lora.items()
        }

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By LoRA module, A (R, d_in) and B (d_out, R): the whole update is B A, scale, masked rows and merged
        included."""
        trained, frozen, adapter = self.read(), self.merged, self.model.active_adapter
        updates = {}
        for module, a, b in lora_pairs(self.names):
            A, B = trained[a], trained[b]
            if module in self._masked:
                B = self._masked[module].full_weight().cpu()
            B = B * self._lora[module].scaling[adapter]
            if merged_names(module)[0] in frozen:
                more_A, more_B = (frozen[name] for name in merged_names(module))
                A, B = torch.cat((A, more_A)), torch.cat((B, more_B), 1)
            updates[module] = (A, B)
        return updates

    def snapshot(self) -> Tensors:
        """A copy of all that makes this slot's model differ from another's: trained tensors, merged factors, and rows
        as `<module>.lora_rows`."""
        return self.read() | self.merged | {rows_name(module): rows for module, rows in self.rows().items()}

    def restore(self, snapshot: Tensors) -> None:
        """Puts back what `snapshot` gave; without merged factors nothing stays merged. Raises `ValueError` as `write`,
        `merge` and `set_rows` do."""
        frozen = {name for module in self._lora for name in merged_names(module)}
        places = {rows_name(module): module for module in self._masked}
        self.write({name: t for name, t in snapshot.items() if name not in frozen and name not in places})
        self.merge({name: t for name, t in snapshot.items() if name in frozen})
        self.set_rows({places[name]: t for name, t in snapshot.items() if name in places})

    def lean_(self) -> None:
        """From now on the model's forwards leave out what changes nothing but rounding: padding inside the transformer
        blocks, and the passes that PEFT makes over a LoRA layer's output."""
        fuse_(self.model)
        pack_(self.model.get_base_model())

    def checkpointing_(self, on: bool) -> None:
        """Switches activation checkpointing of the transformer blocks on or off: the same gradients, less memory, one
        more forward. Raises `UserError` when the blocks cannot be found."""
        checkpointing_(self.model.get_base_model(), on)

    @cached_property
    def frozen_blocks(self) -> int:
        """How many blocks at the bottom compute the same whatever this slot trains or has merged; see `cached`."""
        return frozen_blocks(self.model.get_base_model())

    def cached(
        self, cache: PrefixCache, company: Mapping[tuple[int, ...], Company] = NOBODY
    ) -> AbstractContextManager[None]:
        """Until the end of the block the frozen blocks' states come from `cache`, which may serve other slots too;
        without such blocks nothing changes. A row that is missing is computed with its company, alone if it has none.
        Do not clone the slot inside."""
        return cache.serving(self.model.get_base_model(), self.frozen_blocks, company)

    def parameters(self, names: Sequence[str] | None = None) -> list[nn.Parameter]:
        """The live parameters in the order of `names` (all of them when None)."""
        return [self._parameters[name] for name in (self.names if names is None else names)]

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the first parameter, that of the embedding."""
        return next(self.model.parameters()).device

    @contextmanager
    def prompt(self, tokens: Tensor) -> Iterator[None]:
        """Until the end of the block LoReFT edits these tokens, (batch, length) bool; other adapters do not care."""
        if not isinstance(self.model.base_model, LoReftModel):
            yield
            return
        with self.model.base_model.tracker.given(tokens):
            yield

    def clone(self) -> "Slot":
        """An independent slot: own trained tensors and forward state, the same frozen tensors and buffers.

        Buffers (position tables, rotary frequencies, merged factors, rows) are shared because nothing writes to them:
        `merge` and `set_rows` put new ones in their place.
        """
        trained = {id(parameter) for parameter in self._parameters.values()}
        shared = [p for p in self.model.parameters() if id(p) not in trained]
        memo = {id(tensor): tensor for tensor in [*shared, *self.model.buffers()]}
        return Slot(copy.deepcopy(self.model, memo))

    def retract_(self) -> None:
        """Put LoReFT's R back on orthonormal rows after an optimiser step; nothing to do for LoRA."""
        if isinstance(self.model.base_model, LoReftModel):
            self.model.base_model.retract_()

    def sizes(self) -> dict[str, int]:
        """Trained parameters: `adapter` and `head`."""
        sizes = {"adapter": 0, "head": 0}
        for name, parameter in self._parameters.items():
            sizes["head" if is_head(name) else "adapter"] += parameter.numel()
        return sizes
