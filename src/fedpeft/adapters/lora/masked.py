"""LoRA that trains only some rows of B, chosen before training: gradients and optimiser state exist for those alone.

The memory-saving variant of FedHFT's masks (arXiv 2510.14054), ours [choice]: the paper masks after training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from fedpeft.adapters.register import add_peft_type, register
from fedpeft.errors import UserError

PEFT_TYPE = "MASKED_LORA"
# What masked rows go with. PEFT reads every other field of LoRA's in code that takes B for a whole linear layer.
_SUPPORTED_FIELDS = {
    *(field.name for field in fields(PeftConfig)),
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "fan_in_fan_out", "bias", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("init_lora_weights", "megatron_core", "qalora_group_size", "runtime_config"),
}


@dataclass
class MaskedLoraConfig(LoraConfig):
    """The configuration of LoRA whose B has only the fraction `density` of its rows.

    Raises `UserError` for a density outside (0, 1] and for fields of LoRA's that masked rows do not support.
    """

    density: float = field(default=1.0, metadata={"help": "Fraction of the rows of B that exist, in (0, 1]."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(PEFT_TYPE)
        self.check()

    def check(self) -> None:
        """Raises the errors of the class; also when an adapter is made of it, since fields can be changed."""
        if not 0 < self.density <= 1:
            raise UserError(f"density: the fraction of trained rows lies in (0, 1]. Received: {self.density!r}")
        require_plain_lora(self, "Masked LoRA trains rows of a plain B that starts at zero")


def require_plain_lora(config: LoraConfig, what: str) -> None:
    """Raises `UserError`, which begins with `what`, for fields of LoRA's that need an ordinary B."""
    names = [f.name for f in fields(LoraConfig) if f.name not in _SUPPORTED_FIELDS]
    unsupported = [name for name in names if getattr(config, name) not in (None, False, {}, [])]
    if config.init_lora_weights not in (True, "gaussian"):  # the others start with a B that is not zero
        unsupported.append("init_lora_weights")
    if unsupported:
        received = ", ".join(f"{name}={getattr(config, name)!r}" for name in unsupported)
        raise UserError(f"{what}; use LoRA for others. Received: {received}")


class MaskedRows(nn.Module):
    """The chosen rows of B as a layer: (..., r) -> (..., d_out), zero outside `rows`.

    `weight` is (m, r) with m = max(1, ceil(density * d_out)); `rows` (m,) int64 are their numbers, ascending, the
    first m at the start. `rows` is replaced and never written to, so that clones can share it.
    """

    rows: Tensor

    def __init__(self, full: Tensor, density: float) -> None:
        """Takes shape, dtype and device from `full` (d_out, r), the B that it replaces."""
        super().__init__()
        self.width = len(full)
        count = max(1, math.ceil(density * self.width - 1e-9))  # 0.07 * 100 is a little above 7
        self.weight = nn.Parameter(full.detach().new_zeros(count, full.shape[1]))
        self.register_buffer("rows", torch.arange(count, device=full.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., r) -> (..., d_out)."""
        part = nn.functional.linear(x, self.weight)  # (..., m)
        return part.new_zeros(*part.shape[:-1], self.width).index_copy(-1, self.rows, part)

    def expand_weight(self) -> Tensor:
        """The whole B (d_out, r), with zeros in the rows that do not train, detached."""
        weight = self.weight.detach()
        return weight.new_zeros(self.width, weight.shape[1]).index_copy(0, self.rows, weight)


class MaskedLoraModel(LoraModel):
    """PEFT's LoRA tuner with `MaskedRows` in place of B: what `get_peft_model(model, MaskedLoraConfig(...))` makes."""

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, MaskedLoraConfig)
        peft_config.check()
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, MaskedLoraConfig)
        base = target.get_base_layer() if isinstance(target, LoraLayer) else target
        if isinstance(base, nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention):
            raise UserError(
                f"target_modules: masked rows are those of linear layers. Received: {current_key}, "
                f"a {type(base).__name__}"
            )
        # PEFT draws A as for plain LoRA, so that equal seeds give equal starts.
        super()._create_and_replace(
            peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=parameter_name
        )
        layer = parent.get_submodule(target_name)
        assert isinstance(layer, LoraLayer)
        layer.lora_B[adapter_name] = MaskedRows(layer.lora_B[adapter_name].get_parameter("weight"), peft_config.density)

    def _check_merge_allowed(self) -> None:
        raise UserError("PEFT cannot merge masked rows into weights; make ordinary LoRA of them with convert_to_lora")

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `UserError`: adapters whose B have other rows cannot be summed by their tensors."""
        raise UserError("Masked rows cannot be combined; make ordinary LoRA of each adapter with convert_to_lora")


def set_rows_(masked: Mapping[str, MaskedRows], rows: Mapping[str, Tensor]) -> None:
    """Chooses which rows the modules train; arguments and errors as in `AdaptedModel.set_rows`."""
    for module, numbers in rows.items():
        if module not in masked:
            raise ValueError(f"Only modules with masked rows have rows to choose. Received: {module}")
        expected, width = masked[module].rows.shape, masked[module].width
        if numbers.shape != expected or numbers.dtype != torch.int64:
            raise ValueError(
                f"{module} takes {expected[0]} rows as int64 ({expected[0]},). "
                f"Received: {numbers.dtype} {tuple(numbers.shape)}"
            )
        if int(numbers[0]) < 0 or int(numbers[-1]) >= width or bool((numbers.diff() <= 0).any()):
            raise ValueError(f"{module} has rows 0 to {width - 1}, ascending, each once. Received: {numbers.tolist()}")
    for module, numbers in rows.items():
        masked[module].rows = numbers.to(masked[module].rows.device, copy=True)


register(PEFT_TYPE, MaskedLoraConfig, MaskedLoraModel)
