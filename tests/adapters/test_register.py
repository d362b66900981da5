"""Registration of our tuners with PEFT's own tables."""

import copy
import json
import pickle

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from fedpeft.adapters import LoReftConfig, LoReftModel, MaskedLoraConfig
from fedpeft.adapters.experts.config import ExpertsConfig
from fedpeft.adapters.experts.model import ExpertsModel
from fedpeft.adapters.lora.core import CoreLoraConfig, CoreLoraModel
from fedpeft.adapters.lora.masked import MaskedLoraModel
from fedpeft.adapters.register import register

TABLES = (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("LOREFT", (LoReftConfig, LoReftModel, "reft_")),
        ("MASKED_LORA", (MaskedLoraConfig, MaskedLoraModel, "lora_")),
        ("CORE_LORA", (CoreLoraConfig, CoreLoraModel, "lora_")),
        ("LORA_EXPERTS", (ExpertsConfig, ExpertsModel, "expert_")),
    ],
)
def test_our_tuners_are_in_every_table_and_stay_when_registered_again(name, entries):
    assert tuple(table[name] for table in TABLES) == entries
    register(name, *entries[:2])
    assert tuple(table[name] for table in TABLES) == entries


def test_a_new_tuner_fills_every_table(monkeypatch):
    for table in TABLES:
        monkeypatch.setitem(table, "NEW", None)  # removed after the test
        monkeypatch.delitem(table, "NEW")
    register("NEW", LoReftConfig, LoReftModel)
    assert tuple(table["NEW"] for table in TABLES) == (LoReftConfig, LoReftModel, "reft_")


def test_a_name_that_is_taken_is_refused_and_stays_the_others(monkeypatch):
    monkeypatch.setitem(PEFT_TYPE_TO_TUNER_MAPPING, "LOREFT", dict)
    with pytest.raises(ImportError, match=r"already has a method named LOREFT: builtins\.dict"):
        register("LOREFT", LoReftConfig, LoReftModel)
    assert PEFT_TYPE_TO_TUNER_MAPPING["LOREFT"] is dict


def test_our_types_are_members_like_pefts_own():
    for member in (LoReftConfig().peft_type, MaskedLoraConfig(target_modules=["x"]).peft_type):
        assert member in list(PeftType) and member.value == member.name
        assert PeftType(member.value) is PeftType[member.name] is getattr(PeftType, member.name) is member
        assert copy.deepcopy(member) is pickle.loads(pickle.dumps(member)) is member
        assert json.dumps(member) == f'"{member.value}"'
