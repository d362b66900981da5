"""What is trained on the frozen backbone (LoRA, masked LoRA, LoRA experts, LoReFT) and the model that carries it.

Importing this package registers our tuners with PEFT, so that `get_peft_model(model, LoReftConfig(...))` and
`PeftModel.from_pretrained(model, folder)` work.
"""

from fedpeft.adapters.adapted_model import AdaptedModel, Tensors
from fedpeft.adapters.experts.config import make_experts_config
from fedpeft.adapters.kinds import KINDS, AdapterOptions
from fedpeft.adapters.lora.config import make_lora_config
from fedpeft.adapters.lora.export import convert_to_lora
from fedpeft.adapters.lora.masked import MaskedLoraConfig
from fedpeft.adapters.lora.options import LoraOptions
from fedpeft.adapters.names import (
    find_expert_layers,
    find_interventions,
    find_lora_pairs,
    get_expert_names,
    get_frozen_delta_names,
    get_router_name,
    is_head,
    take_head,
)
from fedpeft.adapters.reft import LoReftConfig, LoReftModel, Positions
from fedpeft.adapters.reft.options import ReftOptions
from fedpeft.adapters.task_model import TaskModel

__all__ = [
    "KINDS",
    "AdaptedModel",
    "AdapterOptions",
    "LoReftConfig",
    "LoReftModel",
    "LoraOptions",
    "MaskedLoraConfig",
    "Positions",
    "ReftOptions",
    "TaskModel",
    "Tensors",
    "convert_to_lora",
    "find_expert_layers",
    "find_interventions",
    "find_lora_pairs",
    "get_expert_names",
    "get_frozen_delta_names",
    "get_router_name",
    "is_head",
    "make_experts_config",
    "make_lora_config",
    "take_head",
]
