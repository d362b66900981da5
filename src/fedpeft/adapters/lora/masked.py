"""LoRA that trains only some rows of B, fixed before training, so that gradients and optimiser state exist for those.

The saving variant of FedHFT's masks (arXiv 2510.14054), ours [choice]: the paper masks after training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from fedpeft.adapters.register import register
from fedpeft.errors import UserError

PEFT_TYPE = "MASKED_LORA"


@dataclass
class MaskedLoraConfig(LoraConfig):
    """PEFT's LoRA whose B has `density` of its rows. Raises `UserError` for a value that masks cannot go with."""

    density: float = field(default=1.0, metadata={"help": "Share of the rows of B that exist, in (0, 1]."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if not 0 < self.density <= 1:
            raise UserError(f"density: the share of trained rows lies in (0, 1]. Received: {self.density!r}")
        if self.use_dora or self.lora_bias:
            raise UserError("density: masked rows go with plain LoRA only. Received: use_dora or lora_bias")


class MaskedRows(nn.Module):
    """The chosen rows of B: (..., r) -> (..., d_out), zero outside `rows`.

    `weight` (m, r) with m = max(1, ceil(density * d_out)); `rows` (m,) int64, sorted, the first m at the start.
    `rows` is replaced and never written, so clones may share it.
    """

    rows: Tensor

    def __init__(self, full: Tensor, density: float) -> None:
        """`full` (d_out, r) is the B whose place this takes: its shape, dtype and device are read."""
        super().__init__()
        self.width = len(full)
        kept = max(1, math.ceil(density * self.width - 1e-9))  # 0.3 * 10 is not exactly 3
        self.weight = nn.Parameter(full.detach().new_zeros(kept, full.shape[1]))
        self.register_buffer("rows", torch.arange(kept, device=full.device))

    def forward(self, x: Tensor) -> Tensor:
        part = nn.functional.linear(x, self.weight)  # (..., m)
        return part.new_zeros(*part.shape[:-1], self.width).index_copy(-1, self.rows, part)

    def full_weight(self) -> Tensor:
        """B with its zero rows, (d_out, r), detached."""
        weight = self.weight.detach()
        return weight.new_zeros(self.width, weight.shape[1]).index_copy(0, self.rows, weight)


class MaskedLoraModel(LoraModel):
    """Made by `get_peft_model(model, MaskedLoraConfig(...))`: PEFT's LoRA layers with `MaskedRows` in place of B."""

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
        # PEFT draws A as for plain LoRA, so that equal seeds give equal starts.
        super()._create_and_replace(
            peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=parameter_name
        )
        layer = parent.get_submodule(target_name)
        assert isinstance(layer, LoraLayer)
        layer.lora_B[adapter_name] = MaskedRows(layer.lora_B[adapter_name].get_parameter("weight"), peft_config.density)

    def _check_merge_allowed(self) -> None:
        raise UserError("masked rows cannot be merged into weights by PEFT; make ordinary LoRA of them with as_lora")


def set_rows_(masked: Mapping[str, MaskedRows], rows: Mapping[str, Tensor]) -> None:
    """Chooses the rows of the given modules; see `AdaptedModel.set_rows`."""
    for module, chosen in rows.items():
        if module not in masked:
            raise ValueError(f"Rows are chosen for modules with masked rows. Received: {module}")
        expected, width = masked[module].rows.shape, masked[module].width
        if chosen.shape != expected or chosen.dtype != torch.int64:
            raise ValueError(
                f"{module} takes {expected[0]} rows as int64 ({expected[0]},). "
                f"Received: {chosen.dtype} {tuple(chosen.shape)}"
            )
        if int(chosen[0]) < 0 or int(chosen[-1]) >= width or bool((chosen.diff() <= 0).any()):
            raise ValueError(f"{module} has rows 0 to {width - 1}, ascending, each once. Received: {chosen.tolist()}")
    for module, chosen in rows.items():
        masked[module].rows = chosen.to(masked[module].rows.device, copy=True)


register(PEFT_TYPE, MaskedLoraConfig, MaskedLoraModel)
