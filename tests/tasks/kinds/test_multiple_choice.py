"""Multiple choice: rows with their choices, and what is scored of likelihoods and of written texts."""

import math

import pytest
import torch
from helpers.decoding import PADDING, compute_loss

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds import make_task
from fedpeft.tasks.kinds.multiple_choice import MultipleChoice
from fedpeft.tasks.labels import LabelIndex

LABELS = LabelIndex(["no", "yes"], "is unknown")


def make_config(**keys):
    return TaskConfig(source="rows.jsonl", kind="multiple_choice", trigger="answer is ", **keys)


def make_choice_task(tokenizer, **keys):
    return make_task(make_config(max_new_tokens=4, **keys), ["no", "yes"], tokenizer, 32)


def make_row(**columns):
    return {"text": "is it good ? Answer format: yes/no", "answer": " yes ", "@where": "a.jsonl:3"} | columns


def test_an_example_learns_the_trigger_and_the_answer():
    example = MultipleChoice.make_example(make_config(), make_row(), LABELS)
    assert example.text == make_row()["text"] and example.text_pair is None
    assert (example.target, example.answer, example.choices) == ("answer is yes", "yes", ("yes", "no"))
    assert example.label == 1


def test_given_choices_go_before_those_in_the_text():
    config = make_config(choices=["yes", "maybe"])
    assert MultipleChoice.make_example(config, make_row(), LABELS).choices == ("yes", "maybe")
    with pytest.raises(UserError, match=r"a\.jsonl:3: the answer 'no' is none of the choices yes, maybe"):
        MultipleChoice.make_example(config, make_row(answer="no"), LABELS)


def test_an_answer_that_no_other_client_had_has_the_first_label():
    assert MultipleChoice.make_example(make_config(), make_row(), LabelIndex(["no"], "")).label == 0


def test_the_labels_are_the_answers_that_occur_anywhere():
    tables = {"train": [make_row(answer="b"), make_row(answer="a")], "test": [make_row(answer="c")]}
    assert MultipleChoice.list_labels(make_config(), tables) == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"a\.jsonl:3: the answer \(column 'answer'\) is empty"):
        MultipleChoice.list_labels(make_config(), {"train": [make_row(answer=None)]})


def test_keys_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="generated_accuracy needs `generated: true`"):
        make_config(metric="generated_accuracy")
    with pytest.raises(ValueError, match="scored by both published rules"):
        make_config(extract="text")
    assert make_config(metric="generated_accuracy", generated=True).generated


def test_the_likeliest_choice_is_counted(decoder, encoded, tokenizer):
    scores = make_choice_task(tokenizer).scores(decoder, encoded, PADDING)
    losses = [[compute_loss(decoder, row.input_ids, choice) for choice in row.choices] for row in encoded]
    is_right = [
        min(range(len(own)), key=own.__getitem__) == row.label for own, row in zip(losses, encoded, strict=True)
    ]
    assert scores["likelihood_accuracy"] == pytest.approx(sum(is_right) / 3)
    gold = [own[row.label] for own, row in zip(losses, encoded, strict=True)]
    assert scores["loss"] == pytest.approx(sum(gold) / 9, rel=1e-5)
    assert scores["examples"] == 3 and "generated_accuracy" not in scores


def test_written_texts_are_scored_by_both_published_rules(decoder, encoded, tokenizer, monkeypatch):
    gold = [row.answer for row in encoded]
    texts = [f"the answer is {gold[0]}", f"{gold[1]}, so the answer is {gold[1]} .", f"{gold[2]} it is"]
    monkeypatch.setattr("fedpeft.tasks.kinds.multiple_choice.generate", lambda *_: texts)
    scores = make_choice_task(tokenizer, generated=True).scores(decoder, encoded, PADDING)
    assert scores["generated_accuracy"] == pytest.approx(1 / 3)  # LoReFT's: the answer behind the trigger, alone
    assert scores["generated_first_choice"] == pytest.approx(1)  # LLM-Adapters': the first choice anywhere


def test_a_model_whose_outputs_are_not_numbers_is_never_right(decoder, encoded, tokenizer):
    broken = decoder.clone()
    broken.write({name: torch.full_like(tensor, float("nan")) for name, tensor in broken.read().items()})
    scores = make_choice_task(tokenizer).scores(broken, encoded, PADDING)
    assert scores["likelihood_accuracy"] == 0 and math.isnan(scores["loss"])
