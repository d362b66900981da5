"""Merging: what transformers reads back, and what is refused before a backbone is loaded."""

import json

import pytest
from helpers.exports import export
from helpers.mistakes import require_line

from fedpeft.config import load_experiment
from fedpeft.runs.merge import merge


def edit_card(run, client, **model):
    file = run / "clients" / client / "adapter/fedpeft.json"
    card = json.loads(file.read_text())
    card["model"] |= model
    file.write_text(json.dumps(card))


def test_a_merged_folder_holds_a_model_its_tokenizer_its_head_and_a_card(exported, tmp_path):
    run, context = exported
    (tmp_path / "out").mkdir()
    (tmp_path / "out/stale.txt").write_text("of an older merge")
    merge(run, "site0", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "classifier.safetensors", "README.md"}
    assert not names & {"stale.txt", "fedpeft.json", "adapter_config.json"}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["id2label"] == dict(zip("01", context.data.labels, strict=True))
    card = (tmp_path / "out/README.md").read_text()
    assert card.count("## Loading it") == card.count("library_name") == 1 and "library_name: transformers" in card
    assert "client `site0`, merged into" in card and "## What it scores" in card


def test_a_run_without_model_cards_is_merged_too(exported, tmp_path):
    run, _ = exported
    (run / "clients/site2/adapter/README.md").unlink()
    merge(run, "site2", tmp_path / "out")
    assert "## Loading it" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("kind", ["loreft", "experts"])
def test_what_depends_on_the_input_is_refused_before_a_backbone_is_loaded(kind, experiment_file, tmp_path, monkeypatch):
    experiment = load_experiment(experiment_file, [])
    method = experiment.build_method({"loreft": "fedreft", "experts": "fedlease"}[kind], None)
    export(experiment, method, tmp_path)
    monkeypatch.setattr("fedpeft.runs.load_exported.load_model", None)
    require_line(lambda: merge(tmp_path, "site0", tmp_path / "out"), "'site0'", f"of kind {kind}", "site0/adapter")
    assert not (tmp_path / "out").exists()


def test_a_quantised_backbone_is_refused(exported, tmp_path):
    run, _ = exported
    edit_card(run, "site0", quantization="4bit")
    require_line(lambda: merge(run, "site0", tmp_path / "out"), "4bit", "serve the adapter itself")


def test_a_folder_that_cannot_be_written_stays_as_it_was(exported, tmp_path, monkeypatch):
    run, _ = exported
    merge(run, "site0", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("fedpeft.runs.merge.save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    require_line(lambda: merge(run, "site1", tmp_path / "out"), "cannot write", "No space left")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
