"""The right one of a few answers: learned as text, scored by likelihood and, if asked, by what is written."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fedpeft.adapters import TaskModel
from fedpeft.errors import UserError
from fedpeft.tasks.columns import read_answer
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.examples import Example
from fedpeft.tasks.extract import extract_choice, extract_exact_choice, read_choices
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds.common.decoder import DecoderKind
from fedpeft.tasks.kinds.common.likelihoods import compute_likelihoods
from fedpeft.tasks.kinds.common.writing import generate
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.sources import Tables

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig


class MultipleChoice(DecoderKind):
    """Learns trigger + answer after each prompt; the choices are candidates for the place of the answer."""

    metrics = ("likelihood_accuracy", "generated_accuracy", "generated_first_choice")

    @classmethod
    def check_config(cls, config: "TaskConfig") -> None:
        if (config.metric or "").startswith("generated_") and not config.generated:
            raise ValueError(f"{config.metric} needs `generated: true`")
        if config.extract != "number":
            raise ValueError("extract is for generation: multiple choice is scored by both published rules")

    @classmethod
    def list_answer_columns(cls, config: "TaskConfig") -> tuple[str, ...]:
        return (config.answer,)

    @classmethod
    def list_labels(cls, config: "TaskConfig", tables: Tables) -> list[str]:
        """The answers that occur: rows are dealt to clients by them."""
        return sorted({read_answer(row, config.answer) for rows in tables.values() for row in rows})

    @classmethod
    def make_example(cls, config: "TaskConfig", row: Row, labels: LabelIndex) -> Example:
        text, text_pair = cls.read_texts(config, row)
        answer = read_answer(row, config.answer)
        choices = tuple(config.choices) if config.choices else read_choices(text)
        if answer not in choices:
            raise UserError(f"{row['@where']}: the answer {answer!r} is none of the choices {', '.join(choices)}")
        label = labels.positions.get(answer, 0)  # a joining client may know an answer that no other client had
        return Example(text, label, text_pair, target=config.trigger + answer, answer=answer, choices=choices)

    @torch.inference_mode()
    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """`loss` is the mean per token of the right choice, as `Encoded` holds it. Of what is written,
        `generated_accuracy` is by LoReFT's rule and `generated_first_choice` by LLM-Adapters'."""
        correct = tokens = 0
        loss = 0.0
        chosen: list[str] = []
        for example, logs in zip(examples, compute_likelihoods(model, examples, padding), strict=True):
            gold = int(example.label)
            correct += not any(map(math.isnan, logs)) and logs.index(max(logs)) == gold
            loss -= logs[gold]
            tokens += len(example.choices[gold])
            chosen.append(example.names[logs.index(max(logs))])
        count = len(examples)
        scores = {"likelihood_accuracy": correct / count, "loss": loss / tokens, "examples": count}
        scores |= self.score_own(chosen, [example.answer for example in examples])
        return scores | self._score_written(model, examples, padding) if self.config.generated else scores

    def _score_written(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        texts = generate(model, examples, padding, self.tokenizer, self.config.max_new_tokens)
        pairs = list(zip(texts, examples, strict=True))
        exact = sum(extract_exact_choice(text, e.names, self.config.trigger) == e.answer for text, e in pairs)
        first = sum(extract_choice(text, e.names) == e.answer for text, e in pairs)
        return {"generated_accuracy": exact / len(pairs), "generated_first_choice": first / len(pairs)}
