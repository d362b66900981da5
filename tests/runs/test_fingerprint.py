"""What a run saw: any change of it is noticed and named, and nothing else is."""

from dataclasses import replace

import pytest

from fedpeft.config import ModelConfig
from fedpeft.runs import fingerprint
from fedpeft.runs.fingerprint import find_model_files, take_fingerprint
from fedpeft.tasks.examples import ClientData, Example, FederatedData


def make_data(texts=("a", "b"), labels=("neg", "pos"), client="c0"):
    examples = tuple(Example(text, i) for i, text in enumerate(texts))
    return FederatedData((ClientData(client, examples, examples[:1], examples[1:]),), labels, ())


@pytest.fixture
def model(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "README.md"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_equal_data_and_models_have_equal_fingerprints_whatever_else_is_said_of_them(model):
    first = take_fingerprint(make_data(), ModelConfig(name=str(model)))
    (model / "README.md").write_text("news")
    second = take_fingerprint(replace(make_data(), notes=("a note",)), ModelConfig(name=str(model)))
    assert first == second and first.digest == second.digest
    assert first.find_difference(second) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"texts": ("a", "c")}, "the examples of client 'c0' are others"),
        ({"texts": ("b", "a")}, "the examples of client 'c0' are others"),
        (
            {"texts": ("a", "b", "c")},
            "client 'c0' had 2 train + 1 validation + 1 test and has 3 train + 1 validation + 2 test",
        ),
        ({"labels": ("pos", "neg")}, "the labels were neg, pos and are pos, neg"),
        ({"client": "c1"}, "client 'c0' is gone"),
    ],
)
def test_a_change_of_data_is_named(model, change, words):
    config = ModelConfig(name=str(model))
    before, now = take_fingerprint(make_data(), config), take_fingerprint(make_data(**change), config)
    assert before.find_difference(now) == words
    assert before.digest != now.digest and before.find_model_difference(now) == ""


def test_what_moves_from_one_split_to_another_is_noticed():
    (client,) = make_data().clients
    swapped = replace(client, validation=client.test, test=client.validation)
    config = ModelConfig(name="none/such")
    before, now = (take_fingerprint(replace(make_data(), clients=(c,)), config) for c in (client, swapped))
    assert before.find_difference(now) == "the examples of client 'c0' are others"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("config.json", "model"),
        ("model.safetensors", "model"),
        ("tokenizer.json", "tokenizer"),
        ("vocab.txt", "tokenizer"),
    ],
)
def test_a_change_of_a_models_file_is_named(model, name, part):
    before = take_fingerprint(make_data(), ModelConfig(name=str(model)))
    (model / name).write_text(name.upper())
    now = take_fingerprint(make_data(), ModelConfig(name=str(model)))
    assert before.find_difference(now) == before.find_model_difference(now) == f"the {part}'s files are others"


def test_a_large_file_is_read_in_parts_from_its_first_byte_to_its_last(model, monkeypatch):
    monkeypatch.setattr(fingerprint, "_WHOLE", 100)
    monkeypatch.setattr(fingerprint, "_PART", 8)
    content = bytes(1000)
    seen = []
    for changed in (None, 0, 999, 505):
        data = bytearray(content)
        if changed is not None:
            data[changed] = 1
        (model / "model.safetensors").write_bytes(data)
        seen.append(take_fingerprint(make_data(), ModelConfig(name=str(model))).model)
    assert len(set(seen)) == 4
    (model / "model.safetensors").write_bytes(content + b"\0")
    assert take_fingerprint(make_data(), ModelConfig(name=str(model))).model not in seen


def test_a_model_that_is_not_on_this_machine_has_no_files_and_is_no_difference(model):
    assert find_model_files("nobody/has-this-model") == find_model_files("~no: such model") == []
    here = take_fingerprint(make_data(), ModelConfig(name=str(model)))
    elsewhere = take_fingerprint(make_data(), ModelConfig(name="nobody/has-this-model"))
    assert (elsewhere.model, elsewhere.tokenizer) == (None, None)
    assert here.find_difference(elsewhere) == elsewhere.find_difference(here) == ""


def test_a_single_file_is_the_model_and_a_packages_folder_is_looked_into(model, monkeypatch):
    assert find_model_files(str(model / "model.safetensors")) == [model / "model.safetensors"]
    monkeypatch.setattr(fingerprint, "find_package_model", lambda name: {"package:small": model}[name])
    names = [file.name for file in find_model_files("package:small")]
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
