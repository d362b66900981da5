"""Predictions of exported adapters: those of the client's own model; what will not do is one line."""

import json
import math

import pytest
import torch
from helpers.exports import export
from helpers.mistakes import require_line
from safetensors.torch import load_file, save_file

from fedpeft.config import load_experiment
from fedpeft.federation.message import Message
from fedpeft.runs.predict import _make_examples, predict
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds.common.encoder import get_logits


def test_every_folder_predicts_what_the_clients_own_model_does(exported):
    folder, context = exported
    texts = ["a great lovely film", "we saw the dull broken book today"]
    for client in context.clients:
        name = client.spec.id
        model = context.templates[name].clone()
        context.federation.method.load_personal(model, Message(name, 1, {}), client)
        batch = context.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            probabilities = get_logits(model, batch).softmax(-1)
        for row, probability in zip(predict(folder, name, texts), probabilities, strict=True):
            assert row["probability"] == pytest.approx(float(probability.max()), abs=1e-4)


def test_sampling_options_are_for_decoders_only(exported):
    folder, _ = exported
    for temperature in (0.0, 1.0, float("nan")):
        require_line(lambda: predict(folder, "site0", ["x"], temperature=temperature), "--temperature", "leave it out")  # noqa: B023
    require_line(lambda: predict(folder, "site0", ["x"], new_tokens=3), "--max-new-tokens", "classification")
    require_line(lambda: predict(folder, "site0", ["x"], ["y"]), "--text-pair", "has no text_pair")


def test_a_task_of_pairs_needs_both_texts(experiment_file, tiny_data, tmp_path):
    rows = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row | {"other": f"{row['text']} again"}) for row in rows))
    experiment = load_experiment(experiment_file, [f"task.source={file}", "task.text_pair=other"])
    export(experiment, experiment.build_method("local", None), tmp_path)
    first, second = predict(tmp_path, "site0", ["good film", "good film"], ["bad book", "lovely book"])
    assert (first["text"], first["text_pair"]) == ("good film", "bad book")
    assert first["probability"] != second["probability"]  # the second text is read
    require_line(lambda: predict(tmp_path, "site0", ["good film"]), "--text-pair", "'other'", "Received 1 and 0")
    require_line(lambda: predict(tmp_path, "site0", ["a", "b"], ["c"]), "Received 2 and 1")
    require_line(lambda: predict(tmp_path, "site0", ["a"], [" "]), "--text-pair is empty")


def test_a_decoders_second_text_may_be_empty_but_not_left_out():
    task = TaskConfig(source="x", kind="generation", text_pair="input")
    assert [example.text_pair for example in _make_examples(task, ["a", "b"], ["c", ""])] == ["c", None]
    require_line(lambda: _make_examples(task, ["a"], None), "--text-pair", "it may be empty")


def test_a_temperature_that_is_no_number_is_one_line(exported):
    folder, _ = exported
    for card in folder.glob("clients/*/adapter/fedpeft.json"):
        content = json.loads(card.read_text())
        content["task"]["kind"] = "generation"
        card.write_text(json.dumps(content))
    for value in (float("nan"), float("inf"), -1.0):
        words = ("--temperature", str(value))
        require_line(lambda: predict(folder, "site0", ["x"], temperature=value), *words)  # noqa: B023


@pytest.mark.parametrize(("value", "reason"), [(math.nan, "not finite"), (3e38, "not a finite number")])
def test_an_adapter_that_predicts_no_number_is_refused(value, reason, exported):
    """Values of 3e38 are finite, their products are not."""
    folder, _ = exported
    file = folder / "clients/site2/adapter/adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, value) for name, tensor in load_file(file).items()}, file)
    require_line(lambda: predict(folder, "site2", ["a film"]), "client 'site2'", reason, "fedpeft resume")


def test_an_adapter_of_another_model_is_refused(exported):
    folder, _ = exported
    (folder / "clients/site0/adapter/adapter_config.json").write_bytes(
        (folder / "clients/site2/adapter/adapter_config.json").read_bytes()
    )
    require_line(lambda: predict(folder, "site0", ["a film"]), "client 'site0'", "has shape (1, 32)", "(3, 32)")
