"""Kinds of task that a language model learns by writing a target after a prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Batch, Encoded, Padding
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds.base import TaskKind
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses
from fedpeft.tasks.kinds.common.writing import generate
from fedpeft.tasks.prompts import encode_prompts, make_prompt_function

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig


class DecoderKind(TaskKind):
    """A kind of task that learns the tokens of `Example.target`, and of nothing else, after the task's prompt."""

    is_decoder = True
    default_max_length = 512  # a prompt is cut from its beginning, where the question is
    pair_is_optional = True  # an instruction may have no input
    cut_loses = "a prompt loses its beginning"

    def __init__(self, config: "TaskConfig", labels: Sequence[str], tokenizer: Any, max_length: int) -> None:
        super().__init__(config, labels, tokenizer, max_length)
        self._make_prompt = make_prompt_function(config, tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        return encode_prompts(examples, self.tokenizer, self.max_length, self._make_prompt)

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return compute_token_losses(model, batch)

    def predict(
        self, model: TaskModel, examples: Sequence[Encoded], padding: Padding, **writing: Any
    ) -> list[dict[str, Any]]:
        """The text `written` after each prompt, greedily unless `writing` says otherwise."""
        new_tokens = writing.pop("new_tokens", self.config.max_new_tokens)
        return [{"written": text} for text in generate(model, examples, padding, self.tokenizer, new_tokens, **writing)]
