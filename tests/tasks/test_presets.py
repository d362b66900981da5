"""Presets fill in keys that experiments know, with values that belong together."""

import dataclasses
import re

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.presets import PRESETS, TRIGGER, get_preset

EIGHT = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
ARITHMETIC = ("aqua", "gsm8k", "mawps", "svamp", "addsub", "multiarith", "singleeq")
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


def test_the_published_tasks_are_there():
    assert set(PRESETS) == {"commonsense", "alpaca", *EIGHT, *ARITHMETIC, *GLUE}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_task_with_any_source(name):
    task = TaskConfig.model_validate({"preset": name, "source": "folder"})
    assert {key: getattr(task, key) for key in get_preset(name)} == get_preset(name)
    assert task.source == "folder"


@pytest.mark.parametrize("name", PRESETS)
def test_what_the_experiment_says_wins(name):
    task = TaskConfig.model_validate({"preset": name, "source": "folder", "text": "mine"})
    assert task.text == "mine" and task.kind == PRESETS[name].kind


@pytest.mark.parametrize("name", PRESETS)
def test_keys_are_those_of_the_kind(name):
    keys = set(get_preset(name))
    if PRESETS[name].kind in ("classification", "regression"):
        assert {"text", "label", "metric"} <= keys and not keys & {"target", "answer", "template", "trigger", "extract"}
        assert ("labels" in keys) is (PRESETS[name].kind == "classification")
    else:
        assert {"text", "target", "answer", "template", "max_new_tokens"} <= keys
        assert "{text}" in get_preset(name)["template"] and "label" not in keys
        assert ("trigger" in keys) is (PRESETS[name].kind == "multiple_choice") is ("extract" not in keys)


def test_the_prompt_of_each_family():
    prompts = {
        name: get_preset(name)["template"].replace("{text}", "2 + 2?") for name in (*EIGHT, *ARITHMETIC, "alpaca")
    }
    assert {prompts[name] for name in EIGHT} == {"2 + 2?\n"}
    assert prompts["gsm8k"].startswith("2 + 2?\n") and prompts["gsm8k"].endswith("answer the final number.\n")
    headed = {prompts[name] for name in (*ARITHMETIC, "alpaca") if name != "gsm8k"}
    assert len(headed) == 1
    assert headed.pop().endswith("the request.\n\n### Instruction:\n2 + 2?\n\n### Response:\n")


def test_the_answer_rule_of_each_family():
    assert all("extract" not in get_preset(name) for name in EIGHT)  # two rules were published, and both are scored
    assert {name: get_preset(name)["extract"] for name in ARITHMETIC} == dict.fromkeys(ARITHMETIC, "number") | {
        "aqua": "letter"
    }
    assert {get_preset(name)["trigger"] for name in EIGHT} == {TRIGGER} and TRIGGER.endswith("is ")


def test_label_names_are_in_the_order_of_glue():
    """Where GLUE's own orders differ from one another, they are easily mistaken."""
    assert get_preset("wnli")["labels"] == ["not_entailment", "entailment"]
    assert get_preset("rte")["labels"] == get_preset("qnli")["labels"] == ["entailment", "not_entailment"]
    assert get_preset("mnli")["labels"] == ["entailment", "neutral", "contradiction"]
    assert get_preset("cola")["metric"] == "matthews" and get_preset("stsb")["metric"] == "pearson"


@pytest.mark.parametrize("name", GLUE)
def test_glue_comes_from_the_hub_as_it_is(name):
    assert get_preset(name, from_hub=True) == get_preset(name) | {"source": f"glue/{name}"}


def test_gsm8k_has_other_columns_on_the_hub():
    local, hub = get_preset("gsm8k"), get_preset("gsm8k", from_hub=True)
    assert (local["text"], local["target"], local["answer"]) == ("instruction", "output", "answer")
    assert (hub["text"], hub["target"], hub["answer"]) == ("question", "answer", "answer")
    assert hub["source"] == "openai/gsm8k/main" and "source" not in local


@pytest.mark.parametrize("name", [*EIGHT, "mawps"])
def test_a_task_whose_hub_rows_have_another_form_asks_for_a_folder(name):
    with pytest.raises(UserError, match=rf"task\.source is missing: preset '{name}'.*/{name} with train\.jsonl\.gz"):
        get_preset(name, from_hub=True)


@pytest.mark.parametrize(
    ("wrong", "near"), [("gsm8", "gsm8k"), ("glue/mrpc", "mrpc"), ("arc-easy", "arc_easy"), (["rte"], "rte")]
)
def test_an_unknown_preset_is_one_line_with_the_nearest(wrong, near):
    with pytest.raises(
        UserError, match=rf"unknown preset {re.escape(repr(wrong))}, did you mean '{near}'\?; known: "
    ) as error:
        get_preset(wrong)
    assert "\n" not in str(error.value)


def test_presets_cannot_be_changed_through_what_they_give():
    before = dataclasses.asdict(PRESETS["rte"])
    get_preset("rte")["labels"].append("maybe")
    assert dataclasses.asdict(PRESETS["rte"]) == before
