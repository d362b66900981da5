"""Decoders: what the loss counts, how choices are scored, what is written; against one row at a time, in float64."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedpeft.adapters import LoReftConfig, Slot, lora_config
from fedpeft.federation.answers import Generation, MultipleChoice, answer_rule, generate, likelihoods, token_losses
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Padding, batches, encode_prompts, labelled, scored
from fedpeft.tasks.prompts import prompt_maker
from fedpeft.tasks.types import Example

PADDING = Padding(0, "left")
ROWS = [
    Example("we saw a film it was good", 0, target="answer is yes", answer="yes", choices=("yes", "no")),
    Example("dull", 1, target="answer is no", answer="no", choices=("yes", "no")),
    Example("the plane was broken again today", 1, target="answer is no", answer="no", choices=("yes", "no", "a film")),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_decoder):
    return AutoTokenizer.from_pretrained(tiny_decoder)


@pytest.fixture(params=["lora", "f2+l1", "all"])
def slot(request, tiny_decoder):
    """Float64, its adapter far from the start."""
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder, dtype=torch.float64)
    config = lora_config(model, 2, 4.0) if request.param == "lora" else LoReftConfig(r=2, positions=request.param)
    slot = Slot(get_peft_model(model, config, autocast_adapter_dtype=False))
    draw = torch.Generator().manual_seed(3)
    slot.write({n: t + torch.randn(t.shape, generator=draw, dtype=t.dtype) for n, t in slot.read().items()})
    return slot


@pytest.fixture
def rows(tokenizer):
    return encode_prompts(ROWS, tokenizer, 32, lambda row: row.text + " :")


def log_shares(slot, prompt, rest):
    """(len(rest),): log probability of each token of `rest` after the prompt, without padding, all logits computed."""
    ids = torch.tensor([[*prompt, *rest]])
    edited = torch.arange(ids.shape[1])[None] < len(prompt)
    with slot.prompt(edited), torch.no_grad():
        logs = slot.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
    return torch.stack([logs[len(prompt) + i - 1, token] for i, token in enumerate(rest)])


def test_the_loss_is_that_of_the_targets_tokens_alone(slot, rows):
    batch = labelled(rows, PADDING)
    assert scored(batch) == sum(len(row.target) for row in rows) == 12  # three words and the end, three times
    expected = torch.stack([-log_shares(slot, row.input_ids, row.target).sum() for row in rows])
    torch.testing.assert_close(token_losses(slot, batch).double(), expected, rtol=1e-5, atol=1e-6)


def test_loreft_edits_the_prompt_and_not_the_answer(slot, rows):
    """The target's labels tell where the prompt ends: `labels` in the model's own forward do the same."""
    batch = labelled(rows, PADDING)
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    position_ids = (ids["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    loss = slot.model(**ids, labels=batch["labels"], position_ids=position_ids).loss
    torch.testing.assert_close((token_losses(slot, batch).sum() / 12).double(), loss.double(), rtol=1e-5, atol=1e-6)


def test_choices_are_scored_by_the_sum_over_their_tokens(slot, rows):
    found = likelihoods(slot, rows, PADDING)
    for row, scores in zip(rows, found, strict=True):
        expected = [float(log_shares(slot, row.input_ids, choice).sum()) for choice in row.choices]
        assert scores == pytest.approx(expected, rel=1e-5)
    assert [len(scores) for scores in found] == [2, 2, 3]


def test_multiple_choice_counts_what_is_likeliest(slot, rows, tokenizer):
    scores = MultipleChoice(tokenizer, 4, "answer is ", True, "likelihood_accuracy").scores(slot, rows, PADDING)
    logs = [[float(log_shares(slot, row.input_ids, c).sum()) for c in row.choices] for row in rows]
    right = [max(range(len(own)), key=own.__getitem__) == row.label for own, row in zip(logs, rows, strict=True)]
    assert scores["likelihood_accuracy"] == pytest.approx(sum(right) / 3)
    gold = [own[row.label] for own, row in zip(logs, rows, strict=True)]
    assert scores["loss"] == pytest.approx(-sum(gold) / 9, rel=1e-5)
    assert 0 <= scores["generated_accuracy"] <= 1


def test_what_is_written_does_not_depend_on_the_rows_beside(slot, rows, tokenizer):
    together = generate(slot, rows, PADDING, tokenizer, 6)
    alone = [generate(slot, [row], PADDING, tokenizer, 6)[0] for row in rows]
    assert together == alone
    assert any(together)


def test_generation_scores_the_answer_found(slot, rows, tokenizer, monkeypatch):
    monkeypatch.setattr("fedpeft.federation.answers.generate", lambda *_: ["is 4", "2 plus 2", "it is -3 ."])
    task = Generation(tokenizer, 4, answer_rule("number", ()), "exact_match")
    answers = [("4.0", "is 4"), ("3", "2 plus 2"), ("-3", "")]
    examples = [Example(row.text, 0, target="is 4", answer=gold) for row, (gold, _) in zip(ROWS, answers, strict=True)]
    encoded = encode_prompts(examples, tokenizer, 32, lambda row: row.text)
    scores = task.scores(slot, encoded, PADDING)
    assert scores["exact_match"] == pytest.approx(2 / 3)
    sums = [-log_shares(slot, row.input_ids, row.target).sum() for row in encoded]
    assert scores["loss"] == pytest.approx(float(sum(sums)) / 9, rel=1e-5)


@pytest.mark.parametrize(
    ("extract", "text", "gold", "right"),
    [
        ("number", "so 1,200 in all", "1200", True),
        ("number", "", "3", False),
        ("letter", "the answer is B", "b", True),
        ("choice", "i say no", "no", True),
        ("choice", "yes or no", "no", False),
        ("text", " Paris ", "paris", True),
    ],
)
def test_answers_are_found_by_the_rule_asked_for(extract, text, gold, right):
    assert answer_rule(extract, ("yes", "no"))(text, gold) is right


def test_a_long_prompt_loses_its_beginning_and_the_target_stays(tokenizer):
    long = Example("good " * 40 + "bad", 0, target="answer is yes", answer="yes", choices=("yes", "no"))
    (row,) = encode_prompts([long], tokenizer, 12, lambda row: row.text)
    bad, good = tokenizer("bad")["input_ids"][0], tokenizer("good")["input_ids"][0]
    assert row.input_ids == (good,) * 7 + (bad,)
    assert row.length == 12
    (short,) = encode_prompts([Example("good", 0, target="bad " * 40)], tokenizer, 12, lambda row: row.text)
    assert (len(short.input_ids), len(short.target)) == (1, 11)


def test_a_training_batch_holds_the_targets_of_its_rows(rows):
    (batch,) = batches(rows, 8, PADDING, torch.Generator().manual_seed(0))
    for at, labels, ids in zip(batch["rows"].tolist(), batch["labels"], batch["input_ids"], strict=True):
        row = rows[at]
        assert tuple(labels[labels != -100].tolist()) == row.target
        assert tuple(ids[-row.length :].tolist()) == row.input_ids + row.target


def test_prompts_are_filled_with_what_the_row_has(tokenizer):
    task = TaskConfig(source="x", kind="generation", template="Q {text}\nA", template_pair="Q {text} I {text_pair} A")
    prompt = prompt_maker(task, tokenizer)
    assert prompt(Example("one {text_pair}", 0)) == "Q one {text_pair}\nA"
    assert prompt(Example("one", 0, "two {text}")) == "Q one I two {text} A"
    plain = prompt_maker(TaskConfig(source="x", kind="generation"), tokenizer)
    assert plain(Example("one", 0, "two")) == "one\ntwo\n"
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<say>"
    chat = prompt_maker(TaskConfig(source="x", kind="generation", template="chat"), tokenizer)
    assert chat(Example("one", 0)) == "<user>one<say>"
    tokenizer.chat_template = None
