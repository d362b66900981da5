import pytest
from peft import PeftConfig

from fedpeft.adapters import LoReftConfig
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
