"""Adapters loaded from folders that anybody may have written: what is not ours is one line, and nothing is executed."""

import json
import os
import shutil

import pytest
import torch
from helpers.adapter_folders import ALPHA, make_model, read_values, save_adapters
from helpers.mistakes import require_line
from safetensors.torch import load_file, save_file

from fedpeft.adapters.load import read_adapter

PATTERN = r"backbone\.encoder\.layer\.(0)\.(a|b)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_adapters(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def change(saved, tmp_path):
    """change("lora", r=3) -> a copy of the adapter's folder with these values in its configuration."""

    def build(kind, **values):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved[kind].folder, folder)
        (folder / "adapter_config.json").write_text(json.dumps(read_values(folder) | values))
        return folder

    return build


@pytest.mark.parametrize("kind", ["lora", "masked", "merged", "reft", "noreft", "router", "adaptive", "similarity"])
def test_a_loaded_adapter_gives_the_logits_of_the_saved_one(kind, saved):
    adapted = read_adapter(saved[kind].folder).attach(make_model())
    with torch.no_grad():
        logits = adapted.model(input_ids=torch.arange(12).view(2, 6)).logits
    torch.testing.assert_close(logits, saved[kind].logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("lora", "megatron_core", "antigravity"),
        ("lora", "megatron_config", {"a": 1}),
        ("lora", "use_dora", True),
        ("lora", "use_rslora", True),
        ("lora", "init_lora_weights", "olora"),
        ("lora", "modules_to_save", ["backbone"]),
        ("lora", "target_modules", r"(a+)+\.x"),
        ("lora", "target_modules", rf"{PATTERN}|.*"),
        ("lora", "target_modules", PATTERN.replace("b", "a.*")),
        ("lora", "target_modules", r"a\.(0|0)\.(b|b)"),
        ("lora", "target_modules", r"a\.(0)\.(b|c)(b|c)"),
        ("lora", "target_modules", "all-linear"),
        ("lora", "target_modules", ["query"]),
        ("lora", "target_modules", rf"a\.(0)\.({'b' * 70_000})"),
        ("lora", "r", 0),
        ("lora", "r", 10**9),
        ("lora", "r", 10**30),
        ("lora", "r", True),
        ("lora", "r", "2"),
        ("lora", "lora_alpha", float("nan")),
        ("lora", "lora_alpha", None),
        ("lora", "rank_pattern", {"(a+)+": 2}),
        ("lora", "rank_pattern", {"a": 10**9}),
        ("lora", "alpha_pattern", {"a": float("inf")}),
        ("lora", "unheard_of", 3),
        ("lora", "unheard\x1b[31m_of", "\x1b[2J"),
        ("reft", "r", -1),
        ("reft", "layers", "some"),
        ("reft", "layers", [0] * 20_000),
        ("reft", "positions", "f" + "9" * 5000),
        ("reft", "positions", "first"),
        ("reft", "variant", "other"),
        ("reft", "target_modules", r"(.*)*"),
        ("reft", "target_modules", PATTERN),
        ("router", "r", 0),
        ("router", "alpha", float("inf")),
        ("router", "experts", 65),
        ("router", "experts", True),
        ("router", "gate", "best"),
        ("adaptive", "target_modules", r"(.*)*"),
        ("similarity", "target_modules", None),
        ("similarity", "modules_to_save", ["backbone"]),
    ],
)
def test_a_field_that_we_do_not_write_is_refused_by_name(kind, field, value, change):
    folder = change(kind, **{field: value})
    name = field.split("\x1b")[0]
    require_line(lambda: read_adapter(folder), str(folder / "adapter_config.json"), name)


@pytest.mark.parametrize("value", [None, "IA3", "MASKED_LORA", "lora", 3, ["LORA"], {}])
def test_another_kind_is_refused(value, change):
    require_line(
        lambda: read_adapter(change("lora", peft_type=value)), "peft_type is one of LORA, LOREFT, LORA_EXPERTS"
    )


def test_no_module_of_the_current_folder_is_imported(change, tmp_path, monkeypatch):
    """PEFT imports what `megatron_core` names; a folder of that name where one stands would run."""
    package = tmp_path / "here" / "megatron"
    package.mkdir(parents=True)
    (package / "core.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(package.parent)
    monkeypatch.syspath_prepend(str(package.parent))
    require_line(lambda: read_adapter(change("lora", megatron_config={"a": 1})), "megatron_config is set")
    read_adapter(change("lora")).attach(make_model())  # its megatron_core is PEFT's default


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}", b" " * (5 * 2**20)],
)
def test_a_damaged_configuration_is_one_line(content, change):
    folder = change("lora")
    (folder / "adapter_config.json").write_bytes(content)
    require_line(lambda: read_adapter(folder), "adapter_config.json")


@pytest.mark.parametrize("cut", [0, 7, 40, 900, -1])
def test_truncated_tensors_are_one_line(cut, change):
    folder = change("reft")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    require_line(lambda: read_adapter(folder), "adapter_model.safetensors")


def test_a_header_that_claims_more_than_any_adapter_needs_is_not_read(change):
    folder = change("lora")
    file = folder / "adapter_model.safetensors"
    with file.open("r+b") as opened:
        opened.write((64 * 2**20).to_bytes(8, "little"))
    os.truncate(file, 65 * 2**20)  # sparse
    require_line(lambda: read_adapter(folder), "its header has 67108864 bytes")


def test_tensors_of_another_rank_name_or_dtype_are_refused(change):
    elsewhere = r"backbone\.encoder\.layer\.(7)\.(attention\.self\.query)"
    for kind, values, *words in (
        ("lora", {"r": 60_000}, "has shape (2, 32)", "(60000, 32)"),
        ("router", {"r": 60_000}, "at most rank 32", "Received: 60000"),
        ("router", {"experts": 64}, "expert_gate.weight has shape (3, 32)", "(64, 32)"),
        ("similarity", {"gate": "router"}, "expert_gate.weight has shape none", "make it (2, 32)"),
        ("lora", {"target_modules": elsewhere}, "does not fit this model"),
        ("lora", {"modules_to_save": None}, "classifier", "make it none"),
        ("reft", {"layers": [9]}, "does not fit this model", "blocks 0 to 1"),
        ("reft", {"layers": [0]}, "layer.1", "make it none"),
        ("reft", {"r": 60_000}, "does not fit this model", "cannot exceed the hidden size 32"),
    ):
        stored = read_adapter(change(kind, **values))
        require_line(lambda: stored.attach(make_model()), *words)  # noqa: B023
    folder = change("lora")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor.int() for name, tensor in tensors.items()}, file)
    require_line(lambda: read_adapter(folder), "F32", "I32")
    save_file(tensors | {"\x1b[31mmore": torch.ones(2)}, file)
    require_line(lambda: read_adapter(folder).attach(make_model()), "\\x1b[31mmore has shape (2,)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_refused(value, change):
    """1e300 is finite in the file's float64 and not in the model's float32."""
    folder = change("lora")
    file = folder / "adapter_model.safetensors"
    tensors = {name: tensor.double() for name, tensor in load_file(file).items()}
    name = next(iter(tensors))
    tensors[name].view(-1)[3] = value
    save_file(tensors, file)
    require_line(lambda: read_adapter(folder).attach(make_model()), name, "not finite")


def test_a_scale_that_is_a_whole_number_or_not_is_kept(change):
    assert read_adapter(change("lora")).config.lora_alpha == ALPHA
    assert read_adapter(change("lora", lora_alpha=0.5)).config.lora_alpha == 0.5
