"""What is trained on the frozen backbone: LoReFT and masked LoRA as PEFT tuners, PEFT's LoRA, classification heads.

Importing this package makes PEFT know our tuners: `get_peft_model(model, LoReftConfig(...))`,
`PeftModel.from_pretrained(model, folder)`.
"""

from fedpeft.adapters.adapted import Adapted
from fedpeft.adapters.backbone import load_backbone
from fedpeft.adapters.blocks import block_count
from fedpeft.adapters.decoder import load_decoder
from fedpeft.adapters.export import as_lora
from fedpeft.adapters.heads import SequenceClassifier
from fedpeft.adapters.lora import lora_config
from fedpeft.adapters.masked import MaskedLoraConfig
from fedpeft.adapters.names import interventions, is_head, lora_pairs, merged_names
from fedpeft.adapters.prefix import NOBODY, PrefixCache
from fedpeft.adapters.prefix_blocks import Company, companies
from fedpeft.adapters.pretrained import DTYPES
from fedpeft.adapters.reft import LoReftConfig, LoReftModel, Positions
from fedpeft.adapters.slot import Slot, Tensors

__all__ = [
    "DTYPES",
    "NOBODY",
    "Adapted",
    "Company",
    "LoReftConfig",
    "LoReftModel",
    "MaskedLoraConfig",
    "Positions",
    "PrefixCache",
    "SequenceClassifier",
    "Slot",
    "Tensors",
    "as_lora",
    "block_count",
    "companies",
    "interventions",
    "is_head",
    "load_backbone",
    "load_decoder",
    "lora_config",
    "lora_pairs",
    "merged_names",
]
