"""A text with an answer in it: learned as text, scored by the answer found in what is written greedily."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fedpeft.adapters import TaskModel
from fedpeft.errors import UserError
from fedpeft.tasks.columns import read_answer
from fedpeft.tasks.encode import Encoded, Padding, count_labels, make_batches
from fedpeft.tasks.examples import Example
from fedpeft.tasks.extract import make_answer_rule, require_findable
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds.common.decoder import DecoderKind
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses
from fedpeft.tasks.kinds.common.writing import generate
from fedpeft.tasks.labels import LabelIndex

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig

BATCH = 16  # examples scored at once


class Generation(DecoderKind):
    """Learns the target column, without the space around it [choice]; the answer column holds the answer alone."""

    metrics = ("exact_match", "token_likelihood")

    @classmethod
    def check_config(cls, config: "TaskConfig") -> None:
        if config.extract == "choice" and not config.choices:
            raise ValueError("extract: choice needs `choices`")

    @classmethod
    def list_answer_columns(cls, config: "TaskConfig") -> tuple[str, ...]:
        return (config.answer, config.target)

    @classmethod
    def make_example(cls, config: "TaskConfig", row: Row, labels: LabelIndex) -> Example:
        """Raises UserError, too, for an answer that the rule of scoring can find in no text."""
        text, text_pair = cls.read_texts(config, row)
        answer = read_answer(row, config.answer)
        target = read_answer(row, config.target, "target")
        try:
            require_findable(answer, config.extract, config.choices or ())
        except UserError as error:
            raise UserError(f"{row['@where']}: {error}") from error
        return Example(text, 0, text_pair, target=target, answer=answer)

    @torch.inference_mode()
    def scores(self, model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> dict[str, float]:
        """`loss` is the mean per token of the target, `token_likelihood` exp(-loss): what a token of it is likely.

        Nothing is written, which takes most of the time, where the metric is `token_likelihood`.
        """
        batches = list(make_batches(examples, BATCH, padding))
        total = sum(float(compute_token_losses(model, batch).sum()) for batch in batches)
        loss = total / sum(count_labels(batch) for batch in batches)
        scores = {"loss": loss, "token_likelihood": math.exp(-loss), "examples": len(examples)}
        if self.metric != "token_likelihood":
            is_right = make_answer_rule(self.config.extract, self.config.choices or ())
            texts = generate(model, examples, padding, self.tokenizer, self.config.max_new_tokens)
            correct = sum(is_right(text, example.answer) for text, example in zip(texts, examples, strict=True))
            scores["exact_match"] = correct / len(examples)
            scores |= self.score_own(texts, [example.answer for example in examples])
        return scores
