"""A saved adapter: PEFT's folder with its card, in place of an older one, whole or not at all."""

import errno
import json
import os
import resource

import pytest
import torch
from peft import PeftModel, get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig
from fedpeft.adapters.export import CARD, save_adapter
from fedpeft.errors import UserError
from fedpeft.tasks.items import MAX_ID_BYTES, require_client_id


@pytest.fixture
def reft_model(tiny_classifier, stir):
    model = get_peft_model(tiny_classifier("bert"), LoReftConfig(r=2, modules_to_save=["classifier"]))
    stir(model)
    return AdaptedModel(model)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raise_full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", ["plain", "masked", "merged", "reft"])
def test_peft_loads_what_was_saved_with_the_same_logits(
    kind, lora_model, reft_model, factors, tiny_classifier, padded, tmp_path
):
    model = reft_model if kind == "reft" else lora_model("bert", density=0.5 if kind == "masked" else 1.0)
    model.set_frozen_delta(factors(model, 3) if kind == "merged" else {})
    save_adapter(model, tmp_path / "apple", {"backbone": "tiny", "round": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["apple"]
    folder = tmp_path / "apple" / "adapter"
    assert json.loads((folder / CARD).read_text()) == {"backbone": "tiny", "round": 3}
    loaded = PeftModel.from_pretrained(tiny_classifier("bert"), str(folder)).eval()
    torch.testing.assert_close(logits(loaded, padded()), logits(model.model, padded()), rtol=1e-4, atol=1e-4)


def test_an_older_export_is_replaced_whole(lora_model, tmp_path):
    folder = tmp_path / "apple"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "stale.txt").write_text("of an older round")
    (tmp_path / ".apple.tmp").mkdir()  # left by a process that was killed
    (tmp_path / ".apple.tmp" / "half").touch()
    (tmp_path / ".apple.old").mkdir()
    (tmp_path / ".apple.old" / "older").touch()
    save_adapter(lora_model("bert"), folder, {"round": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["apple"]
    names = set(read_files(folder))
    assert "adapter/stale.txt" not in names and "half" not in names and f"adapter/{CARD}" in names


@pytest.mark.parametrize("step", ["weights", "rename"])
def test_a_full_disk_leaves_what_was_there(step, lora_model, tmp_path, monkeypatch):
    model, folder = lora_model("bert"), tmp_path / "apple"
    save_adapter(model, folder, {"round": 1})
    before = read_files(folder)
    if step == "weights":
        monkeypatch.setattr(PeftModel, "save_pretrained", raise_full_disk)
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: raise_full_disk() if str(a).endswith(".tmp") else replace(a, b))
    with pytest.raises(UserError, match=r"cannot write .*apple: No space left on device; free some space and resume"):
        save_adapter(model, folder, {"round": 2})
    assert read_files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["apple"]


def test_a_disk_that_is_full_amid_the_weights_leaves_what_was_there(lora_model, tmp_path):
    """A limit on the size of files makes safetensors' own writer fail, as a full disk does."""
    model, folder = lora_model("bert"), tmp_path / "apple"
    save_adapter(model, folder, {"round": 1})
    before = read_files(folder)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, most))
    try:
        with pytest.raises(UserError, match=r"cannot write .*apple: .*File too large.*; free some space and resume"):
            save_adapter(model, folder, {"round": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert read_files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["apple"]


def test_the_longest_id_that_data_may_have_is_exported(lora_model, tmp_path):
    name = "é" * (MAX_ID_BYTES // 2)
    assert require_client_id(name, "here") == name
    save_adapter(lora_model("bert"), tmp_path / name, {})
    assert (tmp_path / name / "adapter" / CARD).is_file()


def test_an_interrupt_leaves_what_was_there(lora_model, tmp_path, monkeypatch):
    model, folder = lora_model("bert"), tmp_path / "apple"
    save_adapter(model, folder, {"round": 1})
    before = read_files(folder)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(model, folder, {"round": 2})
    assert read_files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["apple"]
