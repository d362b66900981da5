"""What is trained on the frozen backbone: LoReFT as a PEFT tuner, PEFT's LoRA, classification heads.

Importing this package makes PEFT know LoReFT: `get_peft_model(model, LoReftConfig(...))`,
`PeftModel.from_pretrained(model, folder)`.
"""

from fedpeft.adapters.backbone import load_backbone
from fedpeft.adapters.blocks import block_count
from fedpeft.adapters.heads import SequenceClassifier
from fedpeft.adapters.lora import lora_config
from fedpeft.adapters.reft import LoReftConfig, LoReftModel
from fedpeft.adapters.slot import Slot, Tensors, interventions, is_head

__all__ = [
    "LoReftConfig",
    "LoReftModel",
    "SequenceClassifier",
    "Slot",
    "Tensors",
    "block_count",
    "interventions",
    "is_head",
    "load_backbone",
    "lora_config",
]
