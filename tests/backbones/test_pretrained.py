"""A model by name: hub id, folder, package or GGUF file; what is wrong is said in one line."""

import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from fedpeft.backbones import load_backbone, load_decoder
from fedpeft.backbones.pretrained import DTYPES, _can_reach_hub, load_pretrained
from fedpeft.errors import UserError

WEIGHTS = "model.safetensors"


def copy_model(model, folder):
    return Path(shutil.copytree(model, folder, dirs_exist_ok=True))


def load(name, factory=AutoModelForCausalLM, dtype="float32", device="cpu", **options):
    return load_pretrained(factory, name, dtype=dtype, device=device, **options)


@pytest.mark.parametrize("factory", [AutoModel, AutoModelForCausalLM])
def test_a_folder_gives_the_saved_weights_in_eval_mode(factory, folder, tiny):
    model, tokenizer = load(folder(eos_token="</s>"), factory)
    saved = tiny("llama")
    saved = saved if factory is AutoModelForCausalLM else saved.model
    assert type(model) is type(saved) and not model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.parameters(), strict=True))
    assert tokenizer("good bad").input_ids == [3, 4]


def test_an_end_token_stands_in_for_a_missing_padding_token(folder):
    model, tokenizer = load(folder(eos_token="</s>"))
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("</s>", 2)


def test_a_padding_token_of_the_tokenizer_is_kept(folder):
    model, tokenizer = load(folder(eos_token="</s>", pad_token="<s>"))
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("<s>", 0)


def test_a_padding_id_of_the_model_is_kept(folder):
    name = folder(eos_token="</s>")
    model, _ = load(name)
    model.config.pad_token_id = 1
    model.save_pretrained(name)
    assert load(name)[0].config.pad_token_id == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_that_of_every_parameter(dtype, folder):
    model, _ = load(folder(eos_token="</s>"), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {DTYPES[dtype]}


def refuse(words, *arguments, **options):
    with pytest.raises(UserError) as error:
        load(*arguments, **options)
    line = str(error.value)
    assert line.isprintable() and len(line) < 500 and all(word in line for word in words), line


def test_an_encoder_has_no_language_model_head_and_draws_none(tiny_model):
    """Two runs of one seed would differ by a head that was drawn without one."""
    words = ("lacks weights that are used here and would be random", "cls.predictions.bias", "and 3 more", "causal")
    refuse(words, str(tiny_model))


@pytest.mark.parametrize("key", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias"])
def test_a_backbone_without_one_of_its_weights_is_refused(key, tiny_model, tmp_path):
    tensors = load_file(copy_model(tiny_model, tmp_path) / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, tmp_path / WEIGHTS, {"format": "pt"})
    refuse((key, "would be random"), str(tmp_path), AutoModel)


def test_a_pooler_is_missed_only_where_it_is_used(tiny_model, tmp_path):
    tensors = load_file(copy_model(tiny_model, tmp_path) / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    save_file(kept, tmp_path / WEIGHTS, {"format": "pt"})
    refuse(("pooler.dense.bias",), str(tmp_path), AutoModel)
    model, _ = load_backbone(str(tmp_path), num_labels=2, pooling="mean")
    assert model.loading_notes == ()


def test_unused_weights_are_told(tiny_decoder):
    model, _ = load_backbone(str(tiny_decoder), num_labels=2, pooling="last")
    assert model.loading_notes == (f"model {str(tiny_decoder)!r}: weights not used: lm_head.weight",)
    assert load_decoder(str(tiny_decoder))[0].loading_notes == ()


def test_weights_of_another_shape_are_named(tiny_model, tmp_path):
    config = copy_model(tiny_model, tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 64'))
    refuse(("not of one model", "encoder.layer.0.intermediate.dense.bias (48,) for (64,)"), str(tmp_path), AutoModel)


@pytest.mark.parametrize("cut", [0, 7, 100, 5000, -1])
def test_truncated_weights_are_one_line(cut, tiny_model, tmp_path):
    file = copy_model(tiny_model, tmp_path) / WEIGHTS
    file.write_bytes(file.read_bytes()[:cut])
    refuse(("could not be loaded", ". Give a hub id"), str(tmp_path), AutoModel)


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", "[" * 5000, '{"model_type": "\\u001b[2J"}', '{"model_type": "bert", "hidden_size": "x"}']
)
def test_a_damaged_config_is_one_line(config, tiny_model, tmp_path):
    (copy_model(tiny_model, tmp_path) / "config.json").write_text(config)
    refuse(("could not be loaded", ". Give a hub id"), str(tmp_path), AutoModel)


def test_a_folder_without_tokenizer_files_is_refused(tiny_model, tmp_path):
    copy_model(tiny_model, tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    refuse(("a tokenizer without words", "tokenizer.json"), str(tmp_path), AutoModel)


def test_an_adapters_folder_is_no_model(tiny_model, tmp_path):
    """transformers would load the model that the adapter names, then what its configuration asks for."""
    (copy_model(tiny_model, tmp_path) / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    refuse(("an adapter, not a model",), str(tmp_path), AutoModel)


def test_without_a_network_the_hub_is_not_asked_again_and_again(monkeypatch):
    def fail(*_):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    began = time.perf_counter()
    refuse(("'owner/no-such-model' could not be loaded", "couldn't connect"), "owner/no-such-model")
    assert time.perf_counter() - began < 5
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert _can_reach_hub(), "a proxy may know the address"


def test_every_user_error_is_one_line_that_says_what_to_do(folder, tmp_path):
    name = folder(eos_token="</s>")
    (tmp_path / "empty").mkdir()
    cases = {
        r"pip install no-such-distribution": {"name": "package:no-such-distribution"},
        r"the package pluggy has no folder.*0 GGUF files where one is needed": {"name": "package:pluggy"},
        r"could not be loaded.*Give a hub id": {"name": str(tmp_path / "empty")},
        r"could not be loaded.*everywhere": {"name": name, "device_map": "everywhere"},
        r"dtype: use one of float32, bfloat16, float16. Received: 'int8'": {"name": name, "dtype": "int8"},
        r"quantization: use one of 8bit, 4bit or null. Received: '3bit'": {"name": name, "quantization": "3bit"},
    }
    for message, arguments in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            load(**arguments)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_pad_is_refused(folder):
    with pytest.raises(UserError, match="neither a padding token nor an end token"):
        load(folder())


def test_a_device_beside_a_device_map_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"device_map: .*leave device out. Received: device 'cuda:1'"):
        load("anything", device="cuda:1", device_map="auto")


@pytest.mark.parametrize("device", ["gpu0", "cuda"])
def test_a_device_that_is_not_there_is_one_line(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="device: "):
        load("anything", device=device)
