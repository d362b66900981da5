"""Exported folders: each client's own rank, merged factors and masked rows, as PEFT reads them."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftConfig

from fedpeft.adapters import find_lora_pairs, get_frozen_delta_names, make_lora_config
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.federation.message import Message
from fedpeft.methods.local import Local
from fedpeft.runs.build import assemble, load_model
from fedpeft.runs.export import make_card
from fedpeft.runs.predict import _make_examples, predict
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds.common.encoder import get_logits
from fedpeft.tasks.load import load_task

RANKS = {"site0": 1, "site1": 2, "site2": 3}


class Odd(Local):
    """site0 trains some rows, site1 holds something merged, site2 is plain; all differ in rank."""

    def adapter(self, model, client):
        return make_lora_config(model, RANKS[client.id], 2.0, density=0.4 if client.id == "site0" else 1.0)

    def load_personal(self, model, message, client):
        draw = torch.Generator().manual_seed(RANKS[client.spec.id])
        model.write({name: 0.3 * torch.randn(t.shape, generator=draw) for name, t in model.read().items()})
        model.set_rows({module: rows + 2 for module, rows in model.get_rows().items()})
        if client.spec.id == "site1":
            module, _, _ = find_lora_pairs(model.names)[0]
            a, b = get_frozen_delta_names(module)
            model.set_frozen_delta({a: torch.randn(4, 32, generator=draw), b: torch.randn(32, 4, generator=draw)})


def export(experiment, method, folder):
    """Exports every client's adapter of a run that has not trained; returns its context."""
    data = load_task(experiment.task, experiment.partition, 0, folder)
    backbone = load_model(experiment.model, experiment.task, len(data.labels), 0)
    context = assemble(experiment, method, 0, data, backbone)
    card = make_card(experiment, data.labels)
    context.engine.export(context.federation.deployment_messages(), folder / "clients", card)
    context.engine.close()
    return context


@pytest.fixture
def exported(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file, [])
    return tmp_path, export(experiment, Odd(experiment.build_method("local", None).options), tmp_path)


def test_every_folder_predicts_what_the_clients_own_model_does(exported):
    folder, built = exported
    texts = ["a great lovely film", "we saw the dull broken book today"]
    for client in built.clients:
        name = client.spec.id
        slot = built.templates[name].clone()
        built.federation.method.load_personal(slot, Message(name, 1, {}), client)
        batch = built.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            shares = get_logits(slot, batch).softmax(-1)
        for row, share in zip(predict(folder, name, texts), shares, strict=True):
            assert row["probability"] == pytest.approx(float(share.max()), abs=1e-4)


def test_folders_hold_each_clients_own_rank_and_only_plain_lora(exported):
    folder, _ = exported
    configs = {name: PeftConfig.from_pretrained(str(folder / "clients" / name / "adapter")) for name in RANKS}
    assert {type(config) for config in configs.values()} == {LoraConfig}
    assert (configs["site0"].r, configs["site2"].r) == (1, 3)
    assert configs["site1"].r == 6 and sorted(configs["site1"].rank_pattern.values())[-2:] == [2, 6]


def refused(do, *words):
    with pytest.raises(UserError) as error:
        do()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_damaged_folder_is_one_line_before_a_model_is_loaded(exported, tmp_path, monkeypatch):
    folder, _ = exported
    adapter = folder / "clients/site1/adapter"
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    card = (adapter / "fedpeft.json").read_text()
    monkeypatch.setattr("fedpeft.runs.predict.load_model", None)
    for name, content in (
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", weights[:-1]),
        ("adapter_config.json", None),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b'{"peft_type": "NONE"}'),
        ("fedpeft.json", None),
        ("fedpeft.json", b"not JSON"),
        ("fedpeft.json", b"\xff\xfe"),
        ("fedpeft.json", b"[]"),
        ("fedpeft.json", b"{}"),
        ("fedpeft.json", card.replace('"source"', '"sauce"').encode()),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "clients", copy / "clients")
        file = copy / "clients/site1/adapter" / name
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        refused(lambda: predict(copy, "site1", ["a film"]), "client 'site1' is incomplete or damaged", name[:7])  # noqa: B023


def test_a_folder_without_adapters_says_why(exported, tmp_path):
    folder, _ = exported
    refused(lambda: predict(tmp_path / "none", "site0", ["a film"]), f"no run at {tmp_path / 'none'}")
    refused(
        lambda: predict(folder, "site9", ["a film"]), "no adapter of client 'site9'", "clients: site0, site1, site2"
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.yaml").write_text("")
    refused(lambda: predict(run, "site0", ["a film"]), "is not finished", "fedpeft resume")
    (run / "result.json").write_text('{"test": {}}')
    refused(lambda: predict(run, "site0", ["a film"]), "`fedpeft compare` exports none; `fedpeft run` does")
    (run / "checkpoint.safetensors").write_bytes(b"")
    refused(lambda: predict(run, "site0", ["a film"]), "clients is missing", "fedpeft resume")


def test_sampling_options_are_for_decoders_only(exported):
    folder, _ = exported
    for temperature in (0.0, 1.0, float("nan")):
        refused(lambda: predict(folder, "site0", ["x"], temperature=temperature), "--temperature", "leave it out")  # noqa: B023
    refused(lambda: predict(folder, "site0", ["x"], new_tokens=3), "--max-new-tokens", "classification")
    refused(lambda: predict(folder, "site0", ["x"], ["y"]), "--text-pair", "has no text_pair")


def test_a_task_of_pairs_needs_both_texts(experiment_file, tiny_data, tmp_path):
    rows = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row | {"other": f"{row['text']} again"}) for row in rows))
    experiment = load_experiment(experiment_file, [f"task.source={file}", "task.text_pair=other"])
    export(experiment, experiment.build_method("local", None), tmp_path)
    one, other = predict(tmp_path, "site0", ["good film", "good film"], ["bad book", "lovely book"])
    assert (one["text"], one["text_pair"]) == ("good film", "bad book")
    assert one["probability"] != other["probability"]  # the second text is read
    refused(lambda: predict(tmp_path, "site0", ["good film"]), "--text-pair", "'other'", "Received 1 and 0")
    refused(lambda: predict(tmp_path, "site0", ["a", "b"], ["c"]), "Received 2 and 1")
    refused(lambda: predict(tmp_path, "site0", ["a"], [" "]), "--text-pair is empty")


def test_a_decoders_second_text_may_be_empty_but_not_left_out():
    task = TaskConfig(source="x", kind="generation", text_pair="input")
    assert [example.text_pair for example in _make_examples(task, ["a", "b"], ["c", ""])] == ["c", None]
    refused(lambda: _make_examples(task, ["a"], None), "--text-pair", "it may be empty")


def test_a_temperature_that_is_no_number_is_one_line(exported):
    folder, _ = exported
    for card in folder.glob("clients/*/adapter/fedpeft.json"):
        content = json.loads(card.read_text())
        content["task"]["kind"] = "generation"
        card.write_text(json.dumps(content))
    for temperature in (float("nan"), float("inf"), -1.0):
        refused(lambda: predict(folder, "site0", ["x"], temperature=temperature), "--temperature", str(temperature))  # noqa: B023
