"""What a model's name stands for: a relative path starts at one place, and what can only be a path asks no hub."""

import os
from pathlib import Path

import pytest

from fedpeft.backbones import locate
from fedpeft.backbones.locate import find_package_model, locate_model, resolve_source
from fedpeft.errors import UserError


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
    monkeypatch.setattr(locate, "dequantise_to_folder", lambda path: path.with_name("written"))
    assert resolve_source("owner/model") == "owner/model"
    assert resolve_source(str(tmp_path)) == str(tmp_path)
    assert resolve_source(str(file)) == str(tmp_path / "written")
    assert resolve_source("owner/model.gguf") == "owner/model.gguf", "no such file here: a hub id"


def test_a_relative_path_starts_at_the_base_and_not_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "file" / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "here" / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    own = str(tmp_path / "file" / "models" / "tiny")
    for name in ("models/tiny", "./models/tiny", "models//tiny/", own):
        assert locate_model(name, tmp_path / "file") == own
    assert locate_model("models/tiny", Path()) == str(tmp_path / "here" / "models" / "tiny")
    assert locate_model("models/tiny", Path("../file")) == own


def test_the_home_folder_is_known_by_its_sign(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_model("~/tiny", Path("/")) == str(tmp_path / "tiny")


@pytest.mark.parametrize("name", ["bert-base", "owner/bert-base", "package:carrier"])
def test_hub_ids_and_packages_stay_as_they_are(name, tmp_path):
    assert locate_model(name, tmp_path) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models/tniy", ("models/tniy", "did you mean 'tiny'?")),  # OWNER/NAME, but there is a folder of that owner
        ("./tiny", ("tiny",)),
        ("../models", ("models",)),
        ("/no/such/folder", ("/no/such/folder",)),
        ("a/b/c", ("a/b/c",)),
        ("~nobody", ("~nobody",)),
        ("models/" + "x" * 300, ("xxx",)),
        ("./a\x00b", ("\\x00",)),
        ("./\x1b[2J", ("\\x1b",)),
        ("file.txt", ("is a file",)),
        ("", ("empty",)),
        (" ", ("empty",)),
    ],
)
def test_what_can_only_be_a_path_and_is_not_there_is_said_at_once(name, words, tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError) as error:
        locate_model(name, tmp_path)
    line = str(error.value)
    assert line.isprintable() and len(line) < 500 and all(word in line for word in words), line


def test_a_folder_that_may_not_be_listed_suggests_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="no such folder"):
        locate_model("./tiny", tmp_path)


@pytest.mark.parametrize("name", ["package:", "package:no-such-distribution", "package:../x", "package:" + "x" * 300])
def test_a_package_that_is_not_installed_is_one_line(name):
    with pytest.raises(UserError, match="the package is not installed"):
        resolve_source(name)
