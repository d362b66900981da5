"""Whole runs on a small decoder: multiple choice and generation, cross-evaluation, export and prediction."""

import json
import random

import pytest
import torch
import yaml

from fedpeft.budgets.resolve_budgets import resolve_budgets
from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.methods import list_built_in
from fedpeft.runs.compare import compare
from fedpeft.runs.predict import predict
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec

POSITIVE = ["good", "great", "fine", "lovely", "superb"]
NEGATIVE = ["bad", "poor", "awful", "dull", "broken"]


def write(folder, rows):
    folder.mkdir(parents=True)
    for split, part in {"train": rows[:48], "test": rows[48:]}.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))


def opinions(seed, words):
    draw = random.Random(seed)
    texts = {" ".join(draw.choices(POSITIVE + NEGATIVE, k=4)) for _ in range(200)}
    rows = []
    for text in sorted(texts)[:72]:
        answer = "yes" if sum(word in words for word in text.split()) >= 2 else "no"
        rows.append({"instruction": f"{text} : Answer format: yes/no", "answer": answer})
    return rows


@pytest.fixture
def choice_file(tmp_path, tiny_decoder):
    """Two tasks, one a client: is it good, is it bad."""
    write(tmp_path / "tasks/good", opinions(0, POSITIVE))
    write(tmp_path / "tasks/bad", opinions(1, NEGATIVE))
    write(tmp_path / "tasks/unused", opinions(2, NEGATIVE))
    settings = {
        "name": "choice",
        "model": {"name": str(tiny_decoder), "max_length": 24},
        "task": {
            "source": "tasks", "tasks": ["good", "bad"], "kind": "multiple_choice", "text": "instruction",
            "trigger": "answer is ", "max_new_tokens": 4,
        },
        "partition": {"kind": "distinct"},
        "training": {"rounds": 2, "batch_size": 8},
        "cross_evaluation": True,
        "methods": {"fedreft": {"lr": 2e-2, "adapter": {"positions": "f2+l2"}}, "fedit": {"lr": 1e-2}, "zero_shot": {}},
    }  # fmt: skip
    file = tmp_path / "choice.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def run(file, label, out, overrides=()):
    experiment = load_experiment(file, list(overrides))
    return start(RunSpec(experiment, label, 0, None, file.parent), out, RunCallback())


def test_the_score_is_named_and_the_matrix_holds_every_model_on_every_test_set(choice_file, tmp_path):
    result = run(choice_file, "fedreft", tmp_path / "run")
    assert result["metric"] == "likelihood_accuracy"
    assert set(result["cross"]) == {"good", "bad"}
    for client in ("good", "bad"):
        own = result["test_by_client"]["deployed"][client]["likelihood_accuracy"]
        assert result["cross"][client][client] == own
        assert set(result["cross"][client]) == {"good", "bad"}
    assert result["head_parameters"] == 0
    assert result["test"]["deployed"]["loss"] > 0


def test_training_lowers_the_answer_loss_below_zero_shot(choice_file, tmp_path):
    more = ["training.rounds=4"]
    trained = run(choice_file, "fedit", tmp_path / "fedit", more)
    untouched = run(choice_file, "zero_shot", tmp_path / "zero", more)
    assert trained["test"]["deployed"]["loss"] < untouched["test"]["deployed"]["loss"] - 0.5
    assert untouched["adapter_parameters"] == 0 < trained["adapter_parameters"]
    scores = untouched["test"]
    assert scores["deployed"] == scores["trained"]


def test_a_run_resumes_to_the_bit(choice_file, tmp_path, monkeypatch):
    whole = run(choice_file, "fedreft", tmp_path / "whole")
    monkeypatch.setattr(RunCallback, "on_round_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(choice_file, "fedreft", tmp_path / "broken")
    monkeypatch.setattr(RunCallback, "on_round_end", lambda *_: None)
    again = resume(tmp_path / "broken", RunCallback())
    assert again["test_by_client"] == whole["test_by_client"]
    assert again["cross"] == whole["cross"]


def test_autocast_is_in_training_scoring_and_prediction(choice_file, tmp_path):
    plain = run(choice_file, "fedit", tmp_path / "plain", ["training.rounds=1"])
    lower = run(choice_file, "fedit", tmp_path / "lower", ["training.rounds=1", "model.autocast=bfloat16"])
    assert lower["test"]["deployed"]["loss"] != plain["test"]["deployed"]["loss"]
    assert lower["test"]["deployed"]["loss"] == pytest.approx(plain["test"]["deployed"]["loss"], rel=0.05)
    is_lower = []

    def generate(*_, **__):
        is_lower.append(torch.is_autocast_enabled("cpu"))
        return ["yes"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpeft.tasks.kinds.common.decoder.generate", generate)
        predict(tmp_path / "lower", "good", ["good great"])
        predict(tmp_path / "plain", "good", ["good great"])
    assert is_lower == [True, False]


def test_a_budget_beside_autocast_is_one_line(choice_file, tmp_path):
    levels = ["model.autocast=bfloat16", "task.kind=classification", "resources=[{memory_mib: 900}]"]
    with pytest.raises(UserError, match=r"measured without model\.autocast"):
        resolve_budgets(load_experiment(choice_file, levels), lambda line: None, tmp_path)


def test_an_exported_adapter_writes_answers(choice_file, tmp_path):
    run(choice_file, "fedit", tmp_path / "run", ["training.rounds=6"])
    (prediction,) = predict(tmp_path / "run", "good", ["good great lovely fine : Answer format: yes/no"])
    assert prediction["written"].startswith("answer is")
    (sampled,) = predict(tmp_path / "run", "good", ["good great"], temperature=5.0, new_tokens=3)
    assert len(sampled["written"].split()) <= 3


def test_mixed_tasks_and_written_answers(choice_file, tmp_path):
    overrides = ["partition.kind=mixed", "partition.clients=3", "task.generated=true", "task.metric=generated_accuracy"]
    result = run(choice_file, "fedit", tmp_path / "run", [*overrides, "training.rounds=6"])
    scores = result["test_by_client"]["deployed"]["client-0"]
    assert result["test"]["deployed"]["by_client"] == pytest.approx(result["test"]["deployed"]["generated_accuracy"])
    assert scores["generated_accuracy"] > 0.3  # it has learned to write one of two answers at all


def test_generation_learns_a_text_and_reads_the_number_in_it(tmp_path, tiny_decoder):
    pairs = [(a, b) for a in range(5) for b in range(5)]
    rows = [{"q": f"{a} plus {b} is {w} :", "output": f"is {a + b}", "answer": f"{a + b}.0"} for a, b in pairs
            for w in POSITIVE[:3]]  # fmt: skip
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "name": "sums",
        "model": {"name": str(tiny_decoder), "max_length": 16},
        "task": {"source": "sums.jsonl", "kind": "generation", "text": "q", "extract": "number", "max_new_tokens": 3},
        "partition": {"kind": "iid", "clients": 2},
        "training": {"rounds": 2, "batch_size": 8},
        "methods": {"fedit": {"lr": 1e-2}},
    }
    file = tmp_path / "sums.yaml"
    file.write_text(yaml.safe_dump(settings))
    comparison = compare(load_experiment(file), ["fedit", "zero_shot"], 1, tmp_path, tmp_path / "out", RunCallback())
    assert [row["metric"] for row in comparison["rows"]] == ["exact_match", "exact_match"]
    trained, untouched = (comparison["runs"][label][0]["test"]["deployed"] for label in ("fedit", "zero_shot"))
    assert trained["loss"] < untouched["loss"] - 0.5


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.metric=accuracy", "multiple_choice has the metrics likelihood_accuracy, generated_accuracy"),
        ("task.metric=generated_accuracy", "needs `generated: true`"),
        ("task.template=hello", "must hold"),
        ("task.template=chat", "no chat template"),
        ("task.tasks=[good, bat]", "no folder 'bat'"),
        ("task.choices=[maybe, perhaps]", "is none of the choices maybe, perhaps"),
        ("task.answer=solution", "no column 'solution'"),
        ("task.preset=gsm9k", "did you mean 'gsm8k'"),
    ],
)
def test_mistakes_are_one_line(choice_file, tmp_path, override, line):
    with pytest.raises(UserError, match=line) as caught:
        run(choice_file, "fedit", tmp_path / "run", [override])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_batched_engine_gives_the_local_engines_result(choice_file, tmp_path):
    """Two clients at once in the second run; the same scores, and losses equal but for rounding."""
    alone = run(choice_file, "fedreft", tmp_path / "local")
    together = run(choice_file, "fedreft", tmp_path / "batched", ["engine=batched", "max_clients=2", "workers=1"])
    for client in ("good", "bad"):
        one, two = (r["test_by_client"]["deployed"][client]["loss"] for r in (alone, together))
        assert two == pytest.approx(one, rel=1e-4)


def test_budgets_are_measured_for_encoders_only(choice_file, tmp_path):
    experiment = load_experiment(choice_file, ["resources=[{memory_mib: 900}]"])
    with pytest.raises(UserError, match="measured for encoders"):
        resolve_budgets(experiment, print, tmp_path / "probes.json")
    assert not (tmp_path / "probes.json").exists()


@pytest.mark.parametrize("label", list_built_in())
def test_every_method_runs_on_a_decoder(choice_file, tmp_path, label):
    options = {"fedhft": ["methods.fedhft.warmup=1"]}.get(label, [])
    result = run(choice_file, label, tmp_path / "run", ["training.rounds=3", "cross_evaluation=false", *options])
    assert result["quarantined"] == 0
    assert result["head_parameters"] == 0
    assert 0 < result["test"]["deployed"]["loss"] < 20
    assert len(list((tmp_path / "run/clients").glob("*/adapter/adapter_model.safetensors"))) == 2
