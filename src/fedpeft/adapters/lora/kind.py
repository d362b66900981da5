"""LoRA as a kind of adapter, plain or with masked rows, with or without a frozen delta."""

from typing import TYPE_CHECKING

from peft import PeftModel
from peft.tuners.lora import LoraModel

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.lora.options import LoraOptions
from fedpeft.adapters.lora.stored import StoredLora

if TYPE_CHECKING:
    from fedpeft.adapters.adapted_model import AdaptedModel


class LoraKind(AdapterKind):
    """PEFT's LoRA and masked LoRA."""

    name = "lora"
    tuner = LoraModel
    options = LoraOptions
    stored = StoredLora

    def make_exportable(self, model: "AdaptedModel") -> PeftModel:
        """The model itself, or ordinary LoRA where it has a frozen delta or masked rows, which PEFT does not know."""
        from fedpeft.adapters.lora.export import convert_to_lora

        return convert_to_lora(model) if model.frozen_delta or model.get_rows() else model.model
