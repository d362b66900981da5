"""Decoders: what the loss counts, how choices are scored, what is written; against one row at a time, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from fedpeft.federation.answers import Generation, MultipleChoice, generate, likelihoods, token_losses
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Padding, collate, count_labels, encode_prompts, make_batches
from fedpeft.tasks.examples import Example
from fedpeft.tasks.extract import make_answer_rule
from fedpeft.tasks.prompts import make_prompt_function

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
    config = make_lora_config(model, 2, 4.0) if request.param == "lora" else LoReftConfig(r=2, positions=request.param)
    slot = AdaptedModel(get_peft_model(model, config, autocast_adapter_dtype=False))
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
    batch = collate(rows, PADDING)
    assert count_labels(batch) == sum(len(row.target) for row in rows) == 12  # three words and the end, three times
    expected = torch.stack([-log_shares(slot, row.input_ids, row.target).sum() for row in rows])
    torch.testing.assert_close(token_losses(slot, batch).double(), expected, rtol=1e-5, atol=1e-6)


def test_loreft_edits_the_prompt_and_not_the_answer(slot, rows):
    """The target's labels tell where the prompt ends: `labels` in the model's own forward do the same."""
    batch = collate(rows, PADDING)
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
    scores = MultipleChoice(tokenizer, 4, "answer is ", False, "likelihood_accuracy").scores(slot, rows, PADDING)
    logs = [[float(log_shares(slot, row.input_ids, c).sum()) for c in row.choices] for row in rows]
    right = [max(range(len(own)), key=own.__getitem__) == row.label for own, row in zip(logs, rows, strict=True)]
    assert scores["likelihood_accuracy"] == pytest.approx(sum(right) / 3)
    gold = [own[row.label] for own, row in zip(logs, rows, strict=True)]
    assert scores["loss"] == pytest.approx(-sum(gold) / 9, rel=1e-5)
    assert "generated_accuracy" not in scores


def test_what_is_written_is_scored_by_both_published_rules(slot, rows, tokenizer, monkeypatch):
    gold = [row.answer for row in rows]
    written = [f"the answer is {gold[0]}", f"{gold[1]}, so the answer is {gold[1]} .", f"{gold[2]} it is"]
    monkeypatch.setattr("fedpeft.federation.answers.generate", lambda *_: written)
    scores = MultipleChoice(tokenizer, 4, "answer is ", True, "generated_accuracy").scores(slot, rows, PADDING)
    assert scores["generated_accuracy"] == pytest.approx(1 / 3)  # LoReFT's: the answer behind the trigger, alone
    assert scores["generated_first_choice"] == pytest.approx(1)  # LLM-Adapters': the first choice anywhere


def test_a_model_that_is_not_a_number_is_not_right(slot, rows, tokenizer):
    broken = slot.clone()
    broken.write({name: torch.full_like(tensor, float("nan")) for name, tensor in broken.read().items()})
    scores = MultipleChoice(tokenizer, 4, "answer is ", False, "likelihood_accuracy").scores(broken, rows, PADDING)
    assert scores["likelihood_accuracy"] == 0 and math.isnan(scores["loss"])


def test_what_is_written_does_not_depend_on_the_rows_beside(slot, rows, tokenizer):
    together = generate(slot, rows, PADDING, tokenizer, 6)
    alone = [generate(slot, [row], PADDING, tokenizer, 6)[0] for row in rows]
    assert together == alone
    assert any(together)


@pytest.mark.parametrize("metric", ["exact_match", "token_likelihood"])
def test_generation_scores_the_answer_found(slot, rows, tokenizer, monkeypatch, metric):
    monkeypatch.setattr("fedpeft.federation.answers.generate", lambda *_: ["is 4", "2 plus 2", "it is -3 ."])
    task = Generation(tokenizer, 4, make_answer_rule("number", ()), metric)
    answers = [("4.0", "is 4"), ("3", "2 plus 2"), ("-3", "")]
    examples = [Example(row.text, 0, target="is 4", answer=gold) for row, (gold, _) in zip(ROWS, answers, strict=True)]
    encoded = encode_prompts(examples, tokenizer, 32, lambda row: row.text)
    scores = task.scores(slot, encoded, PADDING)
    assert scores.get("exact_match") == (pytest.approx(2 / 3) if metric == "exact_match" else None)
    sums = [-log_shares(slot, row.input_ids, row.target).sum() for row in encoded]
    assert scores["loss"] == pytest.approx(float(sum(sums)) / 9, rel=1e-5)
    assert scores["token_likelihood"] == pytest.approx(math.exp(-float(sum(sums)) / 9), rel=1e-5)


def test_a_long_prompt_loses_its_beginning_and_the_target_stays(tokenizer):
    long = Example("good " * 40 + "bad", 0, target="answer is yes", answer="yes", choices=("yes", "no"))
    (row,) = encode_prompts([long], tokenizer, 12, lambda row: row.text)
    bad, good = tokenizer("bad")["input_ids"][0], tokenizer("good")["input_ids"][0]
    assert row.input_ids == (good,) * 7 + (bad,)
    assert row.length == 12
    (short,) = encode_prompts([Example("good", 0, target="bad " * 40)], tokenizer, 12, lambda row: row.text)
    assert (len(short.input_ids), len(short.target)) == (1, 11)


def test_a_training_batch_holds_the_targets_of_its_rows(rows):
    (batch,) = make_batches(rows, 8, PADDING, torch.Generator().manual_seed(0))
    for at, labels, ids in zip(batch["rows"].tolist(), batch["labels"], batch["input_ids"], strict=True):
        row = rows[at]
        assert tuple(labels[labels != -100].tolist()) == row.target
        assert tuple(ids[-row.length :].tolist()) == row.input_ids + row.target


def test_prompts_are_filled_with_what_the_row_has(tokenizer):
    task = TaskConfig(source="x", kind="generation", template="Q {text}\nA", template_pair="Q {text} I {text_pair} A")
    prompt = make_prompt_function(task, tokenizer)
    assert prompt(Example("one {text_pair}", 0)) == "Q one {text_pair}\nA"
    assert prompt(Example("one", 0, "two {text}")) == "Q one I two {text} A"
    plain = make_prompt_function(TaskConfig(source="x", kind="generation"), tokenizer)
    assert plain(Example("one", 0, "two")) == "one\ntwo\n"
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<say>"
    chat = make_prompt_function(TaskConfig(source="x", kind="generation", template="chat"), tokenizer)
    assert chat(Example("one", 0)) == "<user>one<say>"
    tokenizer.chat_template = None


def test_a_row_that_was_cut_says_so(tokenizer):
    rows = [Example("good " * n, 0, target="bad", answer="bad", choices=("bad", "dull film")) for n in (6, 9)]
    whole, cut = encode_prompts(rows, tokenizer, 10, lambda row: row.text)
    assert (whole.cut, cut.cut) == (False, True)
    assert (len(whole.input_ids), len(cut.input_ids)) == (6, 7)  # room for the longest choice and the end
    (other,) = encode_prompts(
        [replace(rows[1], answer="dull film", target="dull film")], tokenizer, 10, lambda r: r.text
    )
    assert other.input_ids == cut.input_ids  # whichever is right: the prompt must not tell


def test_a_choice_that_begins_another_ends(tokenizer):
    """Without an end "good" would always be at least as likely as "good film"."""
    end = tokenizer.eos_token_id
    row = Example("it was", 1, target="good film", answer="good film", choices=("good", "good film"))
    apart = replace(row, choices=("bad", "good film"))
    (ended, plain) = encode_prompts([row, apart], tokenizer, 32, lambda r: r.text)
    assert [choice[-1] == end for choice in ended.choices] == [True, True]
    assert not any(end in choice for choice in plain.choices)
