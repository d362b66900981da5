"""Decoders: learn the answer only, edit the prompt only, score by likelihood or by what is written.

Batches are padded on the left, so that every prompt and target ends in the last column: logits are computed for the
last columns alone, which for a large vocabulary is a good part of the cost.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import IGNORE, Batch, Encoded, Padding, count_labels, make_batches, pad_rows, sort_by_length
from fedpeft.tasks.extract import AnswerRule, exact_choice, extract_choice

ROWS = 16  # scored at once


def answer_logits(model: TaskModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (batch, kept, vocabulary), float32, that predict the labels (batch, kept) of the last columns.

    LoReFT edits the tokens before each row's first label. `batch` is padded on the left.
    """
    labels, mask = batch["labels"], batch["attention_mask"]
    kept = labels.shape[1] - int((labels != IGNORE).any(0).int().argmax())  # on the CPU still: no sync
    prompt = (mask != 0) & ((labels != IGNORE).cumsum(-1) == 0)
    return _last_logits(model, batch, prompt, kept + 1)[:, :-1], labels[:, -kept:].to(model.device)


def _last_logits(model: TaskModel, batch: Batch, prompt: Tensor, kept: int) -> Tensor:
    """(batch, kept, vocabulary), float32, of the last columns; `prompt` (batch, length) bool is what LoReFT edits."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    counted = (mask.cumsum(-1) - 1).clamp(min=0)  # (batch, length), from each row's first real token
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": counted}
    with model.use_prompt(prompt.to(model.device)):
        # A key-value cache would copy every layer's keys and values for nobody.
        found = model.model(**{k: v.to(model.device) for k, v in inputs.items()}, logits_to_keep=kept, use_cache=False)
    return found.logits.float()


def token_losses(model: TaskModel, batch: Batch) -> Tensor:
    """(batch,): cross entropy summed over each row's target."""
    found, labels = answer_logits(model, batch)
    losses = nn.functional.cross_entropy(found.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return losses.sum(-1)


@dataclass(frozen=True)
class _Candidate:
    """One text that a row's choices share up to their last token, and the choices that it serves."""

    row: int
    prompt: int  # tokens of it that are prompt
    input_ids: tuple[int, ...]
    choices: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.input_ids)


@torch.no_grad()
def likelihoods(model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> list[list[float]]:
    """By row and choice, log p(choice | prompt): the sum over the choice's tokens, not normalised by length.

    Choices that differ in their last token only are read from one forward pass.
    """
    contexts: list[_Candidate] = []
    for at, row in enumerate(rows):
        shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, choice in enumerate(row.choices):
            shared[choice[:-1]].append(i)
        contexts += [
            _Candidate(at, len(row.input_ids), row.input_ids + ids, tuple(served)) for ids, served in shared.items()
        ]
    scores = [[0.0] * len(row.choices) for row in rows]
    order = sort_by_length(contexts, range(len(contexts)))
    for start in range(0, len(order), ROWS):
        chosen = [contexts[i] for i in order[start : start + ROWS]]
        logs = _log_shares(model, chosen, padding)
        for context, log in zip(chosen, logs, strict=True):  # (kept, vocabulary)
            for i in context.choices:
                ids = torch.tensor(rows[context.row].choices[i], device=log.device)
                places = torch.arange(len(log) - len(ids), len(log), device=log.device)
                scores[context.row][i] = float(log[places, ids].sum())
    return scores


def _log_shares(model: TaskModel, contexts: Sequence[_Candidate], padding: Padding) -> Tensor:
    """(contexts, kept, vocabulary): log probabilities of the next token, from the last token of each prompt on."""
    batch = pad_rows([context.input_ids for context in contexts], padding)
    mask = batch["attention_mask"]
    width = mask.shape[1]
    before = torch.tensor([width - context.length + context.prompt for context in contexts])  # column after the prompt
    prompt = (mask != 0) & (torch.arange(width) < before[:, None])
    kept = max(context.length - context.prompt for context in contexts) + 1
    return _last_logits(model, batch, prompt, kept).log_softmax(-1)


@torch.no_grad()
def generate(
    model: TaskModel, rows: Sequence[Encoded], padding: Padding, tokenizer: Any, new_tokens: int, **sampling: Any
) -> list[str]:
    """What the model writes after each prompt, greedily unless `sampling` says otherwise."""
    written = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        batch = {k: v.to(model.device) for k, v in pad_rows([rows[i].input_ids for i in chosen], padding).items()}
        options = {"do_sample": False, "pad_token_id": padding.id, "eos_token_id": tokenizer.eos_token_id} | sampling
        found = model.model.generate(**batch, max_new_tokens=new_tokens, **options)
        texts = tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            written[i] = text
    return written


class MultipleChoice:
    """The right one of a few answers: learned as text; scored by likelihood and, if asked, by what is written."""

    def __init__(self, tokenizer: Any, new_tokens: int, trigger: str, generated: bool, metric: str) -> None:
        self.tokenizer, self.new_tokens, self.trigger = tokenizer, new_tokens, trigger
        self.generated, self.metric = generated, metric

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return token_losses(model, batch)

    @torch.inference_mode()
    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """`loss` is the mean per token of the right choice, as `Encoded` holds it. Of what is written,
        `generated_accuracy` is by LoReFT's rule and `generated_first_choice` by LLM-Adapters'."""
        right = tokens = 0
        loss = 0.0
        for row, logs in zip(rows, likelihoods(model, rows, padding), strict=True):
            gold = int(row.label)
            right += not any(map(math.isnan, logs)) and logs.index(max(logs)) == gold
            loss -= logs[gold]
            tokens += len(row.choices[gold])
        scores = {"likelihood_accuracy": right / len(rows), "loss": loss / tokens, "examples": len(rows)}
        if self.generated:
            written = generate(model, rows, padding, self.tokenizer, self.new_tokens)
            pairs = list(zip(written, rows, strict=True))
            exact = sum(exact_choice(text, row.names, self.trigger) == row.answer for text, row in pairs)
            first = sum(extract_choice(text, row.names) == row.answer for text, row in pairs)
            scores |= {"generated_accuracy": exact / len(rows), "generated_first_choice": first / len(rows)}
        return scores


class Generation:
    """A text with an answer in it: learned as text, scored by the answer found in what is written greedily."""

    def __init__(self, tokenizer: Any, new_tokens: int, right: AnswerRule, metric: str) -> None:
        self.tokenizer, self.new_tokens, self.right, self.metric = tokenizer, new_tokens, right, metric

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return token_losses(model, batch)

    @torch.inference_mode()
    def scores(self, model: TaskModel, rows: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """`loss` is the mean per token of the target, `token_likelihood` exp(-loss): what a token of it is likely.

        Nothing is written, which takes most of the time, where the metric is `token_likelihood`.
        """
        parts = list(make_batches(rows, ROWS, padding))
        loss = sum(float(token_losses(model, part).sum()) for part in parts) / sum(count_labels(part) for part in parts)
        scores = {"loss": loss, "token_likelihood": math.exp(-loss), "examples": len(rows)}
        if self.metric == "exact_match":
            written = generate(model, rows, padding, self.tokenizer, self.new_tokens)
            right = sum(self.right(text, row.answer) for text, row in zip(written, rows, strict=True))
            scores["exact_match"] = right / len(rows)
        return scores
