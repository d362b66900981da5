"""A model by name: hub id, folder, package or GGUF file; what is wrong is said in one line."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from fedpeft.backbones import pretrained
from fedpeft.backbones.pretrained import DTYPES, find_package_model, load_pretrained, resolve_source
from fedpeft.errors import UserError


def load(name, factory=AutoModelForCausalLM, dtype="float32", device="cpu", **options):
    return load_pretrained(factory, name, dtype=dtype, device=device, **options)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """package(files) -> an installed distribution "carrier" with these files, empty; returns its folder."""

    def build(files):
        info = tmp_path / "carrier-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"carrier/{file},,\n" for file in files))
        for file in files:
            path = tmp_path / "carrier" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path / "carrier"

    return build


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


def test_the_folder_with_weights_is_chosen_inside_a_package(package):
    """Sentence encoders carry a second config.json without weights."""
    carrier = package(["model/1_Pooling/config.json", "model/config.json", "model/model.safetensors"])
    assert find_package_model("package:carrier") == carrier / "model"
    assert resolve_source("package:carrier") == str(carrier / "model")


def test_a_package_with_one_gguf_file_gives_that_file(package):
    carrier = package(["data/model.gguf", "data/config.json", "__init__.py"])
    assert find_package_model("package:carrier") == carrier / "data" / "model.gguf"


@pytest.mark.parametrize(("files", "count"), [([], 0), (["config.json"], 0), (["a.gguf", "b.gguf"], 2)])
def test_a_package_without_one_model_is_refused(files, count, package):
    package(files)
    message = rf"backbone 'package:carrier': the package carrier has no folder .* and {count} GGUF files where one"
    with pytest.raises(UserError, match=message):
        find_package_model("package:carrier")


def test_hub_ids_and_folders_are_sources_as_they_are_and_gguf_files_are_written_out(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setattr(pretrained, "dequantise_to_folder", lambda path: path.with_name("written"))
    assert resolve_source("owner/model") == "owner/model"
    assert resolve_source(str(tmp_path)) == str(tmp_path)
    assert resolve_source(str(file)) == str(tmp_path / "written")
    assert resolve_source("owner/model.gguf") == "owner/model.gguf", "no such file here: a hub id"


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
