"""Generation: rows with a target and an answer in it, and the answer found in written texts."""

import math

import pytest
from helpers.decoding import EXAMPLES, PADDING, compute_loss

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds import make_task
from fedpeft.tasks.kinds.generation import Generation
from fedpeft.tasks.labels import LabelIndex

LABELS = LabelIndex(["generation"], "is unknown")


def make_config(**keys):
    return TaskConfig(source="rows.jsonl", kind="generation", template="{text}", **keys)


def make_row(**columns):
    return {"text": "2 + 2 ?", "output": " it is 4 ", "answer": 4.0, "@where": "a.jsonl:3"} | columns


def test_an_example_learns_the_target_column():
    example = Generation.make_example(make_config(), make_row(), LABELS)
    assert example == Example("2 + 2 ?", 0, target="it is 4", answer="4.0")


def test_an_empty_second_text_is_left_out():
    config = make_config(text_pair="input")
    assert Generation.make_example(config, make_row(input=""), LABELS).text_pair is None
    assert Generation.make_example(config, make_row(input="more"), LABELS).text_pair == "more"


@pytest.mark.parametrize(
    ("columns", "keys", "line"),
    [
        ({"output": " "}, {}, "the target (column 'output') is empty; fill it or remove the row"),
        ({"output": None}, {}, "the target (column 'output') is empty"),
        ({"answer": None}, {}, "the answer (column 'answer') is empty"),
        ({"answer": "four"}, {}, "task.answer: expected a number, received 'four'"),
        ({"answer": "F"}, {"extract": "letter"}, "task.answer: expected a letter A to E, received 'F'"),
        ({"answer": "c"}, {"extract": "choice", "choices": ["a", "b"]}, "expected one of the choices a, b"),
    ],
)
def test_a_row_that_cannot_be_learned_or_scored_is_one_line(columns, keys, line):
    with pytest.raises(UserError) as caught:
        Generation.make_example(make_config(**keys), make_row(**columns), LABELS)
    assert str(caught.value).startswith(f"a.jsonl:3: {line}") or line in str(caught.value)
    assert str(caught.value).startswith("a.jsonl:3: ") and "\n" not in str(caught.value)


def test_rows_are_dealt_without_looking_at_the_answer():
    assert Generation.list_labels(make_config(), {"train": [make_row(), make_row(answer=5)]}) == ["generation"]


def test_extract_choice_needs_choices():
    with pytest.raises(ValueError, match="extract: choice needs `choices`"):
        make_config(extract="choice")


@pytest.mark.parametrize("metric", ["exact_match", "token_likelihood"])
def test_the_answer_found_in_the_text_is_scored(decoder, tokenizer, monkeypatch, metric):
    monkeypatch.setattr("fedpeft.tasks.kinds.generation.generate", lambda *_: ["is 4", "2 plus 2", "it is -3 ."])
    task = make_task(make_config(metric=metric, max_new_tokens=4), ["generation"], tokenizer, 32)
    gold = ["4.0", "3", "-3"]
    examples = [Example(e.text, 0, target="is 4", answer=a) for e, a in zip(EXAMPLES, gold, strict=True)]
    encoded = task.encode(examples)
    scores = task.scores(decoder, encoded, PADDING)
    assert scores.get("exact_match") == (pytest.approx(2 / 3) if metric == "exact_match" else None)
    loss = sum(compute_loss(decoder, row.input_ids, row.target) for row in encoded) / 9
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["token_likelihood"] == pytest.approx(math.exp(-loss), rel=1e-5)
    assert scores["examples"] == 3
