import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from fedpeft.adapters import LoReftConfig, LoReftModel
from fedpeft.adapters.reft.config import PEFT_TYPE
from fedpeft.adapters.register import register
from fedpeft.errors import UserError


@pytest.mark.parametrize("wrong", [{"r": 0}, {"r": 1.5}, {"variant": "reft"}, {"positions": "first"}])
def test_wrong_values_are_refused_with_the_value(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(UserError, match=f"^{name}: .*Received: {value!r}$"):
        LoReftConfig(**wrong)


def test_saved_and_read_back_by_peft(tmp_path):
    config = LoReftConfig(r=3, layers=[0, 2], positions="f3", tied=True, variant="noreft", modules_to_save=["score"])
    config.save_pretrained(str(tmp_path))
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, LoReftConfig)
    assert loaded == config


def test_registering_twice_changes_nothing_and_never_replaces_another_method(monkeypatch):
    register(PEFT_TYPE, LoReftConfig, LoReftModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["LOREFT"] is LoReftConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["LOREFT"] is LoReftModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["LOREFT"] == "reft_"
    monkeypatch.setitem(PEFT_TYPE_TO_TUNER_MAPPING, "LOREFT", dict)
    with pytest.raises(ImportError, match=r"builtins\.dict"):
        register(PEFT_TYPE, LoReftConfig, LoReftModel)
