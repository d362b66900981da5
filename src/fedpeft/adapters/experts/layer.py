"""A linear layer with LoRA experts and a gate beside it."""

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fedpeft.adapters.experts.config import ExpertsConfig
from fedpeft.adapters.experts.gate import SharedGate, select_adaptively
from fedpeft.adapters.lora.config import get_dimensions
from fedpeft.errors import UserError


class LoraExperts(nn.Module):
    """The factors A<i> (r, d_in) and B<i> (d_out, r) of every expert, each a parameter so that some can be frozen.

    As in LoRA, A is uniform from torch's global generator and B zero.
    """

    def __init__(self, config: ExpertsConfig, d_in: int, d_out: int, **options: Any) -> None:
        super().__init__()
        self.count, self.rank, self.scale = config.experts, config.r, config.alpha / config.r
        for i in range(config.experts):
            self.register_parameter(f"A{i}", nn.Parameter(torch.empty(config.r, d_in, **options)))
            self.register_parameter(f"B{i}", nn.Parameter(torch.empty(d_out, config.r, **options)))
            # Where PEFT wants no values, it has made meta tensors of these: drawing would take the memory of a size
            # that a stranger's folder names.
            if not self.get_parameter(f"A{i}").is_meta:
                nn.init.kaiming_uniform_(self.get_parameter(f"A{i}"), a=math.sqrt(5))
                nn.init.zeros_(self.get_parameter(f"B{i}"))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """The update (..., d_out) of x (..., d_in) with weights (..., experts) that broadcast over the tokens."""
        A = torch.cat([self.get_parameter(f"A{i}") for i in range(self.count)])  # (experts * r, d_in)
        B = torch.cat([self.get_parameter(f"B{i}") for i in range(self.count)], 1)  # (d_out, experts * r)
        weights = (self.scale * weights).to(A.dtype).repeat_interleave(self.rank, -1)  # (..., experts * r)
        return nn.functional.linear(nn.functional.linear(x.to(A.dtype), A) * weights, B)


class ExpertsLayer(nn.Module, BaseTunerLayer):
    """A linear layer whose output gains sum_i w_i (alpha / r) B_i A_i x.

    Parameters of each adapter: those of `LoraExperts` under `expert_lora` and, where the gate is a router,
    `expert_gate.weight`: (experts, d_in), or (2 experts - 1, d_in) of the gate "adaptive".
    """

    adapter_layer_names = ("expert_lora", "expert_gate")

    def __init__(self, base_layer: nn.Module, shared: SharedGate | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.expert_lora = nn.ModuleDict()
        self.expert_gate = nn.ModuleDict()
        self.gates: dict[str, str] = {}  # by adapter
        self.merged_adapters: list[str] = []
        self._shared = (shared,)  # in a tuple: it is a module of the model, not of each layer

    def update_layer(self, adapter_name: str, config: ExpertsConfig) -> None:
        """Adds an adapter. Raises `UserError` for a rank above the smaller dimension of the layer."""
        d_in, d_out = get_dimensions(self.base_layer)
        if config.r > min(d_in, d_out):
            raise UserError(
                f"r: experts of a {d_in} x {d_out} layer have at most rank {min(d_in, d_out)}. Received: {config.r}"
            )
        weight = next(self.base_layer.parameters())
        # float32 beside bfloat16 and quantised weights
        options: dict[str, Any] = {
            "device": weight.device,
            "dtype": torch.promote_types(torch.float32, weight.dtype),
        }
        self.expert_lora[adapter_name] = LoraExperts(config, d_in, d_out, **options)
        if config.gate != "similarity":
            choices = config.experts if config.gate == "router" else 2 * config.experts - 1
            self.expert_gate[adapter_name] = nn.Linear(d_in, choices, bias=False, **options)
        self.gates[adapter_name] = config.gate

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., d_in) -> (..., d_out) in the dtype of the base layer's output."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name in self.gates:
                result = result + self.expert_lora[name](x, self._weigh_experts(name, x))
        return result.to(dtype)

    def _weigh_experts(self, name: str, x: Tensor) -> Tensor:
        """The weights (..., experts) of each token of x (..., d_in), float32 or wider."""
        (shared,) = self._shared
        if self.gates[name] == "similarity":
            assert shared is not None
            return shared.get_weights(x)
        router = self.expert_gate[name]
        logits = router(x.to(router.get_parameter("weight").dtype))  # (..., choices)
        if self.gates[name] == "router":
            return logits.softmax(-1)
        assert shared is not None
        return select_adaptively(logits, shared.expert_count[name].to(logits.device))  # blocks may be on several

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises `UserError`: weights that depend on the input cannot be merged."""
        raise UserError("LoRA experts are weighted by the input, so they cannot be merged into weights")

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter and its gate."""
        self.gates.pop(adapter_name, None)
        super().delete_adapter(adapter_name)
