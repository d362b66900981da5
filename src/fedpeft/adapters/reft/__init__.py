"""LoReFT, NoReFT and DiReFT as PEFT tuners. Importing this package makes PEFT know them."""

from fedpeft.adapters.reft.config import PEFT_TYPE, LoReftConfig
from fedpeft.adapters.reft.model import LoReftModel
from fedpeft.adapters.reft.positions import Positions
from fedpeft.adapters.register import register

__all__ = ["LoReftConfig", "LoReftModel", "Positions"]

register(PEFT_TYPE, LoReftConfig, LoReftModel)
