"""A PEFT model whose adapter and head are exchanged by copying tensors."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from fedpeft.adapters.kinds import find_kind
from fedpeft.adapters.lora.core import CoreUp
from fedpeft.adapters.lora.frozen_delta import get_frozen_delta, read_frozen_deltas, set_frozen_delta_
from fedpeft.adapters.lora.masked import MaskedRows, set_rows_
from fedpeft.adapters.names import find_lora_pairs, get_frozen_delta_names, get_rows_name, is_head
from fedpeft.errors import UserError

Tensors = dict[str, Tensor]


class AdaptedModel:
    """A PEFT model in eval mode (no dropout, also in training) whose trained tensors are read and written by name.

    The names are those of PEFT's state dict of the active adapter, without the adapter's name, head included.
    A LoRA model holds two more things, which do not train: a frozen delta beside each pair (`set_frozen_delta`), and
    the numbers of the rows of B that its masked modules train (`set_rows`). `snapshot` and `restore` cover all of it.

    Tensors that it returns are on the CPU, because they travel or are kept between rounds; tensors that it is given may
    be on any device. One thread may use it at a time: `clone()` gives each thread its own, with every frozen tensor
    shared.
    """

    def __init__(self, model: PeftModel) -> None:
        """Wraps a model; raises `ValueError` when its adapter is of no known kind, `UserError` for LoRA's dropout."""
        config = model.peft_config[model.active_adapter]
        if isinstance(config, LoraConfig) and config.lora_dropout and not config.inference_mode:
            raise UserError(
                "lora_dropout: clients train in eval mode, without dropout; set it to 0. "
                f"Received: {config.lora_dropout}"
            )
        self.model = model.eval()
        self.kind = find_kind(model)
        self._tuner = cast(BaseTuner, model.base_model)
        # Given parameters instead of values, PEFT's own naming returns name -> live parameter.
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
        # Remembered here, because asking every layer would take most of a snapshot's time.
        self._has_frozen_delta = any(get_frozen_delta(layer) is not None for layer in self._lora.values())

    @property
    def base(self) -> nn.Module:
        """The task's own model inside PEFT's wrapper, with the adapter in its layers."""
        return cast(nn.Module, self.model.get_base_model())

    @property
    def device(self) -> torch.device:
        """The device that inputs go to: that of the first parameter, the embedding's."""
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
        """The live trained parameters in the order of `names`; None: all of them."""
        return [self._parameters[name] for name in (self.names if names is None else names)]

    def count_parameters(self) -> dict[str, int]:
        """The number of trained parameters of the `adapter` and of the `head`."""
        sizes = {"adapter": 0, "head": 0}
        for name, parameter in self._parameters.items():
            sizes["head" if is_head(name) else "adapter"] += parameter.numel()
        return sizes

    # ---- LoRA only: frozen delta and masked rows

    def set_frozen_delta(self, factors: Tensors) -> None:
        """Replaces the frozen delta of all LoRA modules by `factors`; {} removes it.

        A module's factors are `<module>.merged_A` (r, d_in) and `<module>.merged_B` (d_out, r), of any rank, with the
        scale in them. The module then computes base + s B A x + merged_B merged_A x; the base weights are not written.
        Raises `ValueError`, before anything is changed, for another name, half a pair or a wrong shape.
        """
        set_frozen_delta_(self._lora, self.model.active_adapter, factors)
        self._has_frozen_delta = bool(factors)

    @property
    def frozen_delta(self) -> Tensors:
        """A copy of the factors that `set_frozen_delta` was given, in the dtype of the trained pair.

        Where the factors are larger than their product the model keeps only the product: it comes back as a pair with
        an identity of the smaller dimension.
        """
        return read_frozen_deltas(self._lora) if self._has_frozen_delta else {}

    def set_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Chooses which rows of the full B the masked modules train: numbers (m,) int64, ascending, by module.

        The values in `<module>.lora_B.weight` (m, r) stay as they are. Raises `ValueError`, before anything is changed,
        for a module without masked rows, a wrong number of rows, or rows that B does not have.
        """
        set_rows_(self._masked, rows)

    def get_rows(self) -> dict[str, Tensor]:
        """A copy of the numbers of the rows that train, (m,) int64 by masked module; {} without masks."""
        return {module: up.rows.to("cpu", copy=True) for module, up in self._masked.items()}

    def get_dimensions(self) -> dict[str, tuple[int, int]]:
        """The (d_out, d_in) of every LoRA module; {} for other kinds of adapter."""
        return {
            module: (cast(int, layer.out_features), cast(int, layer.in_features))
            for module, layer in self._lora.items()
        }

    @property
    def effective_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A (R, d_in) and B (d_out, R) by LoRA module, whose product is the module's whole update to its base weight.

        Scale, masked rows and frozen delta are included.
        """
        trained, frozen, adapter = self.read(), self.frozen_delta, self.model.active_adapter
        result = {}
        for module, a, b in find_lora_pairs(self.names):
            A, B = trained[a], trained[b]
            up = self._lora[module].lora_B[adapter]
            if isinstance(up, MaskedRows | CoreUp):
                B = up.expand_weight().detach().cpu()
            B = B * self._lora[module].scaling[adapter]
            if get_frozen_delta_names(module)[0] in frozen:
                frozen_A, frozen_B = (frozen[name] for name in get_frozen_delta_names(module))
                A, B = torch.cat((A, frozen_A)), torch.cat((B, frozen_B), 1)
            result[module] = (A, B)
        return result

    # ---- the whole state

    def snapshot(self) -> Tensors:
        """A copy of all state that differs between clients: trained tensors, frozen delta and `<module>.lora_rows`."""
        rows = {get_rows_name(module): rows for module, rows in self.get_rows().items()}
        return self.read() | self.frozen_delta | rows

    def restore(self, snapshot: Tensors) -> None:
        """Sets the state to that of a `snapshot`; one without a frozen delta removes it.

        Raises `ValueError` as `write`, `set_frozen_delta` and `set_rows` do.
        """
        frozen = {name for module in self._lora for name in get_frozen_delta_names(module)}
        masked = {get_rows_name(module): module for module in self._masked}
        self.write({name: t for name, t in snapshot.items() if name not in frozen and name not in masked})
        self.set_frozen_delta({name: t for name, t in snapshot.items() if name in frozen})
        self.set_rows({masked[name]: t for name, t in snapshot.items() if name in masked})

    def clone(self) -> "AdaptedModel":
        """An independent model with its own trained tensors and forward state, and the same frozen tensors and buffers.

        Buffers (position tables, rotary frequencies, frozen deltas, rows) can be shared because nothing writes to them:
        `set_frozen_delta` and `set_rows` replace them.
        """
        trained = {id(parameter) for parameter in self._parameters.values()}
        shared = [p for p in self.model.parameters() if id(p) not in trained]
        memo = {id(tensor): tensor for tensor in [*shared, *self.model.buffers()]}
        return AdaptedModel(copy.deepcopy(self.model, memo))

    # ---- decided by the kind of adapter

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
        return self.kind.use_prompt(self._tuner, tokens)

    def retract_(self) -> None:
        """Moves constrained tensors back onto their constraint; call after every optimiser step."""
        self.kind.retract_(self._tuner)
