"""LoRA as a kind of adapter, with rows masked before training and a frozen delta beside the pair."""

from typing import TYPE_CHECKING

from peft import PeftModel
from peft.tuners.lora import LoraModel

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.lora.options import LoraOptions

if TYPE_CHECKING:
    from fedpeft.adapters.adapted_model import AdaptedModel


class LoraKind(AdapterKind):
    """PEFT's LoRA and masked LoRA."""

    name = "lora"
    tuner = LoraModel
    options = LoraOptions

    def make_exportable(self, model: "AdaptedModel") -> PeftModel:
        # PEFT knows neither a frozen delta nor masked rows: those become ordinary LoRA.
        from fedpeft.adapters.lora.export import convert_to_lora

        return convert_to_lora(model) if model.frozen_delta or model.get_rows() else model.model
