"""The card beside an adapter: what it says of method, base, training and scores; anybody's text stays text."""

from dataclasses import replace

import pytest
import yaml
from helpers.fresh import read_code

from fedpeft.adapters.kinds import KINDS
from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.model_card import CardFacts, make_model_card
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

LORA = KINDS[0]
SCORES = {"test": {"deployed": {"accuracy": 0.8125, "loss": 0.5, "examples": 16}}}
FACTS = CardFacts("north", "trained", SCORES, {"train": 52, "test": 16}, {"adapter": 6656, "head": 66}, LORA, 2)


@pytest.fixture
def spec(experiment_file):
    return RunSpec(load_experiment(experiment_file, ["training.rounds=2"]), "fedit", 0, None, experiment_file.parent)


def make(spec, facts=FACTS, labels=("bad", "good"), licence=None):
    return make_model_card(spec, spec.make_method(), list(labels), facts, licence)


def read_head(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_says_what_it_is_of_and_names_no_path_of_this_machine(spec, tiny_model):
    card = make(spec, licence="apache-2.0")
    assert read_head(card) == {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["federated-learning", "fedpeft", "lora", "fedit"],
    }
    for words in (
        "FedIT: LoRA factors averaged",
        "arXiv 2305.05644",
        "| licence of the base model | apache-2.0 |",
        "lora: 6,656 trained parameters, and 66 of the head",
        "2 other clients, 2 rounds, seed 0",
        "labels: bad, good",
        "holds the **trained** model (what the last local training left, before aggregation)",
        "| deployed | what this folder holds | test (16) | 0.8125 | 0.5000 |",
    ):
        assert words in card, words
    assert str(tiny_model.parent) not in card and tiny_model.name in card


def test_a_base_of_the_hub_is_linked(spec):
    spec.experiment.model.name = "owner/base"
    head = read_head(make(spec))
    assert (head["base_model"], head["base_model_relation"]) == ("owner/base", "adapter")
    assert "not in its files" in make(spec)


def test_hostile_ids_and_labels_stay_text(spec):
    card = make(spec, replace(FACTS, client="a`<b>\n# c"), labels=["|x|", "<script>", "a\n\n# b"])
    assert "<script>" not in card and "<b>" not in card.replace("`a'<b> # c`", "")
    (row,) = (line for line in card.splitlines() if line.startswith("| task"))
    assert row.count(" | ") == 1 and "\\|x\\|" in row
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        "# Adapter of client `a'<b> # c`, trained with `fedit`"
    ]


def test_every_client_of_a_run_has_a_card_with_its_own_scores(spec, tmp_path):
    result = start(spec, tmp_path / "run", RunCallback())
    folder = RunFolder(tmp_path / "run")
    for client in folder.exported_clients:
        adapter = tmp_path / "run/clients" / client / "adapter"
        card = (adapter / "README.md").read_text()
        deployed = result["test_by_client"]["deployed"][client]
        (row,) = (line for line in card.splitlines() if line.startswith("| deployed") and "| test (" in line)
        assert f"| {deployed['accuracy']:.4f} |" in row and f"test ({deployed['examples']})" in row
        assert f"holds the **{result['deployment']['choices'][client]}** model" in card
        compile(read_code(adapter, None), "card", "exec")
