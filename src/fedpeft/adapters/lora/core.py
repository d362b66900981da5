"""LoRA whose A and B stay, and that trains the matrix between them: W0 x + s B R A x, as LoRA-SB and LoRA-XS do."""

from dataclasses import dataclass
from typing import Any, NoReturn

from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from fedpeft.adapters.lora.masked import require_plain_lora
from fedpeft.adapters.register import add_peft_type, register
from fedpeft.errors import UserError

PEFT_TYPE = "CORE_LORA"


@dataclass
class CoreLoraConfig(LoraConfig):
    """The configuration of LoRA that trains R (r, r) between a basis B (d_out, r) and A (r, d_in), which stay.

    Raises `UserError` for fields of LoRA's that have no meaning for it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(PEFT_TYPE)
        self.check()

    def check(self) -> None:
        """Raises the errors of the class; also when an adapter is made of it, since fields can be changed."""
        require_plain_lora(self, "LoRA with a core trains R between two plain factors that stay")


class CoreUp(nn.Module):
    """R and the basis as a layer in place of B: (..., r) -> (..., d_out). Both start at zero.

    `weight` is R (r, r) and `basis` B (d_out, r), which whoever trains R sets first.
    """

    def __init__(self, full: Tensor) -> None:
        """Takes shape, dtype and device from `full` (d_out, r), the B that it replaces."""
        super().__init__()
        self.weight = nn.Parameter(full.detach().new_zeros(full.shape[1], full.shape[1]))
        self.basis = nn.Parameter(full.detach().new_zeros(full.shape), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., r) -> (..., d_out)."""
        return nn.functional.linear(nn.functional.linear(x, self.weight), self.basis)

    def expand_weight(self) -> Tensor:
        """The whole B R (d_out, r), in the graph of both."""
        return self.basis @ self.weight


class CoreLoraModel(LoraModel):
    """PEFT's LoRA tuner with `CoreUp` in place of B: what `get_peft_model(model, CoreLoraConfig(...))` makes."""

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, CoreLoraConfig)
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
        super()._create_and_replace(
            peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=parameter_name
        )
        layer = parent.get_submodule(target_name)
        assert isinstance(layer, LoraLayer)
        layer.lora_B[adapter_name] = CoreUp(layer.lora_B[adapter_name].get_parameter("weight"))

    def _check_merge_allowed(self) -> None:
        raise UserError("PEFT cannot merge B R A into weights; make ordinary LoRA of it with convert_to_lora")

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `UserError`: adapters whose bases differ cannot be summed by their R."""
        raise UserError("LoRA with a core cannot be combined; make ordinary LoRA of each adapter with convert_to_lora")


register(PEFT_TYPE, CoreLoraConfig, CoreLoraModel)
