"""LoRA as a kind of adapter: plain, with masked rows or with a core, with or without a frozen delta."""

from typing import TYPE_CHECKING

from peft import PeftModel
from peft.tuners.lora import LoraModel

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.lora.options import LoraOptions
from fedpeft.adapters.lora.stored import StoredLora

if TYPE_CHECKING:
    from fedpeft.adapters.adapted_model import AdaptedModel


class LoraKind(AdapterKind):
    """PEFT's LoRA, masked LoRA and LoRA with a core."""

    name = "lora"
    tuner = LoraModel
    options = LoraOptions
    stored = StoredLora
    can_merge = True

    def make_exportable(self, model: "AdaptedModel") -> PeftModel:
        """The model itself, or ordinary LoRA where it has a frozen delta or another B, which PEFT does not know."""
        from fedpeft.adapters.lora.export import convert_to_lora

        is_plain = type(model.model.base_model) is LoraModel and not model.frozen_delta
        return model.model if is_plain else convert_to_lora(model)
