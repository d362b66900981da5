"""The methods, by the name a user writes. Others join through the entry-point group `fedpeft.methods`."""

from importlib.metadata import entry_points
from typing import Any

from fedpeft.federation.method import Method
from fedpeft.methods.centralised import Centralised
from fedpeft.methods.ditto import Ditto
from fedpeft.methods.fedavg_loreft import FedAvgLoReft
from fedpeft.methods.fedex_lora import FedExLora
from fedpeft.methods.fedhft import FedHft
from fedpeft.methods.fedit import FedIt
from fedpeft.methods.fedreft import FedReft
from fedpeft.methods.fedsa_lora import FedSaLora
from fedpeft.methods.ffa_lora import FfaLora
from fedpeft.methods.flexlora import FlexLora
from fedpeft.methods.flora import FLora
from fedpeft.methods.hetlora import HetLora
from fedpeft.methods.ifca import Ifca
from fedpeft.methods.local import Local
from fedpeft.methods.lora_fair import LoraFair
from fedpeft.methods.rolora import RoLora
from fedpeft.methods.zero_shot import ZeroShot

BUILT_IN: dict[str, type[Method[Any]]] = {
    "local": Local,
    "centralised": Centralised,
    "fedit": FedIt,
    "fedavg_loreft": FedAvgLoReft,
    "fedreft": FedReft,
    "lora_fair": LoraFair,
    "hetlora": HetLora,
    "flora": FLora,
    "flexlora": FlexLora,
    "fedhft": FedHft,
    "fedex_lora": FedExLora,
    "rolora": RoLora,
    "ifca": Ifca,
    "ffa_lora": FfaLora,
    "fedsa_lora": FedSaLora,
    "ditto": Ditto,
    "zero_shot": ZeroShot,
}


def available() -> dict[str, type[Method[Any]]]:
    """Every method that can be named: ours, and those of installed packages."""
    return BUILT_IN | {point.name: point.load() for point in entry_points(group="fedpeft.methods")}
