"""One model whose adapter and head are exchanged by copying tensors."""

import copy
import re
from collections.abc import Iterable, Sequence

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from fedpeft.adapters.reft.model import LoReftModel

Tensors = dict[str, Tensor]


def is_head(name: str) -> bool:
    """Whether the named tensor belongs to the task head: everything trained that is not an adapter."""
    return not any(part.startswith(("lora_", "reft_")) for part in name.split("."))


def interventions(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """The (R, W, b) names of every LoReFT intervention among `names`, in the order of the blocks."""
    prefixes = {name.removesuffix("reft_R") for name in names if name.endswith(".reft_R")}
    ordered = sorted(prefixes, key=lambda p: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", p)])
    return [(f"{p}reft_R", f"{p}reft_W", f"{p}reft_b") for p in ordered]


class Slot:
    """A PEFT model in eval mode (no dropout, also in training) whose trained tensors are read and written by
    name.

    The names are those of PEFT's state dict of the active adapter, without the adapter's name, head included.
    One thread may use a slot at a time; `clone()` gives each thread its own, sharing every frozen tensor.
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

    def read(self) -> Tensors:
        """A copy of every trained tensor."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def write(self, tensors: Tensors) -> None:
        """Copy in exactly the given tensors; the others keep their values.

        Raises `ValueError`, before anything is written, for a name the slot does not have or a wrong shape.
        """
        for name, tensor in tensors.items():
            if name not in self._parameters:
                raise ValueError(f"A slot has tensors like {self.names[0]}, and not this one. Received: {name}")
            expected = tuple(self._parameters[name].shape)
            if tuple(tensor.shape) != expected:
                raise ValueError(f"{name} has shape {expected}. Received: {tuple(tensor.shape)}")
        if tensors:
            torch._foreach_copy_([self._parameters[name] for name in tensors], list(tensors.values()))

    def parameters(self, names: Sequence[str] | None = None) -> list[nn.Parameter]:
        """The live parameters in the order of `names` (all of them when None)."""
        return [self._parameters[name] for name in (self.names if names is None else names)]

    def clone(self) -> "Slot":
        """An independent slot: own trained tensors and forward state, the same frozen tensors and buffers.

        Buffers (position tables, rotary frequencies) are shared because nothing writes to them in eval mode.
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
