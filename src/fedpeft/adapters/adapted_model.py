"""One model whose adapter and head are exchanged by copying tensors."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from fedpeft.adapters.kinds import find_kind
from fedpeft.adapters.lora.frozen_delta import get_frozen_delta, read_frozen_deltas, set_frozen_delta_
from fedpeft.adapters.lora.masked import MaskedRows, set_rows_
from fedpeft.adapters.names import find_lora_pairs, get_frozen_delta_names, get_rows_name, is_head

Tensors = dict[str, Tensor]


class AdaptedModel:
    """A PEFT model in eval mode (no dropout, also in training) whose trained tensors are read and written by name.

    The names are those of PEFT's state dict of the active adapter, without the adapter's name, head included.
    With LoRA it holds two more things, which do not train: a frozen delta beside each pair (`set_frozen_delta`), and
    which rows of B its masked modules train (`set_rows`). `snapshot` and `restore` carry all of it.

    What it gives lies on the CPU, wherever the model does: it travels, or is kept between rounds. What it takes may lie
    anywhere. One thread may use it at a time; `clone()` gives each thread its own, sharing every frozen tensor.
    """

    def __init__(self, model: PeftModel) -> None:
        """Raises `ValueError` for a model whose adapter is of no known kind."""
        self.model = model.eval()
        self.kind = find_kind(model)
        self._tuner = cast(BaseTuner, model.base_model)
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
        for module, _, _ in find_lora_pairs(self.names):
            layer = model.get_submodule(module)
            assert isinstance(layer, LoraLayer)
            self._lora[module] = layer
            up = layer.lora_B[model.active_adapter]
            if isinstance(up, MaskedRows):
                self._masked[module] = up
        # Kept beside the layers: looking at each of them would be most of a snapshot's time.
        self._has_frozen_delta = any(get_frozen_delta(layer) is not None for layer in self._lora.values())

    @property
    def base(self) -> nn.Module:
        """The backbone, with the adapter inside it."""
        return cast(nn.Module, self.model.get_base_model())

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the first parameter, that of the embedding."""
        return next(self.model.parameters()).device

    # ---- trained tensors

    @torch.no_grad()
    def read(self) -> Tensors:
        """A copy of every trained tensor."""
        return {name: parameter.to("cpu", copy=True) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def write(self, tensors: Tensors) -> None:
        """Copies in exactly the given tensors; the others keep their values.

        Raises `ValueError`, before anything is written, for a name the model does not train or a wrong shape.
        """
        for name, tensor in tensors.items():
            parameter = self._parameters.get(name)
            if parameter is None:
                raise ValueError(f"The model trains tensors like {self.names[0]}, not this one. Received: {name}")
            if tensor.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(parameter.shape)}. Received: {tuple(tensor.shape)}")
        if tensors:
            torch._foreach_copy_([self._parameters[name] for name in tensors], list(tensors.values()))

    def parameters(self, names: Sequence[str] | None = None) -> list[nn.Parameter]:
        """The live parameters in the order of `names` (all of them when None)."""
        return [self._parameters[name] for name in (self.names if names is None else names)]

    def count_parameters(self) -> dict[str, int]:
        """Trained parameters: `adapter` and `head`."""
        sizes = {"adapter": 0, "head": 0}
        for name, parameter in self._parameters.items():
            sizes["head" if is_head(name) else "adapter"] += parameter.numel()
        return sizes

    # ---- what a LoRA model holds besides

    def set_frozen_delta(self, factors: Tensors) -> None:
        """Replaces the whole frozen update beside the trainable one; {} is none.

        For any LoRA module: `<module>.merged_A` (r, d_in) and `<module>.merged_B` (d_out, r), scale inside, any rank.
        The module's output becomes base + s B A x + merged_B merged_A x; the base weights are not written. Raises
        `ValueError`, before anything is changed, for another name, half a pair or a wrong shape.
        """
        set_frozen_delta_(self._lora, self.model.active_adapter, factors)
        self._has_frozen_delta = bool(factors)

    @property
    def frozen_delta(self) -> Tensors:
        """A copy of what `set_frozen_delta` was given, in the dtype of the trained pair.

        Of factors larger than their product the model keeps the product alone, and gives it back as a pair with an
        identity of the smaller dimension.
        """
        return read_frozen_deltas(self._lora) if self._has_frozen_delta else {}

    def set_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Chooses which rows of the full B the masked modules train: (m,) int64 ascending, by module.

        Only the rows' places move; what `<module>.lora_B.weight` (m, r) holds stays. Raises `ValueError`, before
        anything is changed, for a module without masked rows, a wrong number of them, or rows that B does not have.
        """
        set_rows_(self._masked, rows)

    def get_rows(self) -> dict[str, Tensor]:
        """A copy of the rows that train, (m,) int64 by masked module; {} for plain LoRA."""
        return {module: up.rows.to("cpu", copy=True) for module, up in self._masked.items()}

    def get_dimensions(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of every adapted layer, by LoRA module; {} for LoReFT."""
        return {
            module: (cast(int, layer.out_features), cast(int, layer.in_features))
            for module, layer in self._lora.items()
        }

    @property
    def effective_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By LoRA module, A (R, d_in) and B (d_out, R): the whole update is B A, with scale, masked rows and the
        frozen delta in it."""
        trained, frozen, adapter = self.read(), self.frozen_delta, self.model.active_adapter
        result = {}
        for module, a, b in find_lora_pairs(self.names):
            A, B = trained[a], trained[b]
            if module in self._masked:
                B = self._masked[module].full_weight().cpu()
            B = B * self._lora[module].scaling[adapter]
            if get_frozen_delta_names(module)[0] in frozen:
                more_A, more_B = (frozen[name] for name in get_frozen_delta_names(module))
                A, B = torch.cat((A, more_A)), torch.cat((B, more_B), 1)
            result[module] = (A, B)
        return result

    # ---- the whole of it

    def snapshot(self) -> Tensors:
        """A copy of all that makes this model differ from another's: trained tensors, frozen delta, and rows as
        `<module>.lora_rows`."""
        rows = {get_rows_name(module): rows for module, rows in self.get_rows().items()}
        return self.read() | self.frozen_delta | rows

    def restore(self, snapshot: Tensors) -> None:
        """Puts back what `snapshot` gave; without a frozen delta in it there is none. Raises `ValueError` as `write`,
        `set_frozen_delta` and `set_rows` do."""
        frozen = {name for module in self._lora for name in get_frozen_delta_names(module)}
        places = {get_rows_name(module): module for module in self._masked}
        self.write({name: t for name, t in snapshot.items() if name not in frozen and name not in places})
        self.set_frozen_delta({name: t for name, t in snapshot.items() if name in frozen})
        self.set_rows({places[name]: t for name, t in snapshot.items() if name in places})

    def clone(self) -> "AdaptedModel":
        """An independent model: own trained tensors and forward state, the same frozen tensors and buffers.

        Buffers (position tables, rotary frequencies, frozen deltas, rows) are shared because nothing writes to them:
        `set_frozen_delta` and `set_rows` put new ones in their place.
        """
        trained = {id(parameter) for parameter in self._parameters.values()}
        shared = [p for p in self.model.parameters() if id(p) not in trained]
        memo = {id(tensor): tensor for tensor in [*shared, *self.model.buffers()]}
        return AdaptedModel(copy.deepcopy(self.model, memo))

    # ---- what the kind of adapter decides

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
        return self.kind.use_prompt(self._tuner, tokens)

    def retract_(self) -> None:
        """Puts constrained tensors back where they belong; call after every optimiser step."""
        self.kind.retract_(self._tuner)
