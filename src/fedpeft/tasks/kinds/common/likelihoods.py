"""How likely a language model finds each of a few answers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Encoded, Padding, pad_rows, sort_by_length
from fedpeft.tasks.kinds.common.token_losses import get_last_logits

BATCH = 16  # texts in one forward


@dataclass(frozen=True)
class _Context:
    """A text that some choices of one example share up to their last token: prompt and all but that token."""

    example: int
    prompt_length: int
    input_ids: tuple[int, ...]
    choices: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.input_ids)


@torch.no_grad()
def compute_likelihoods(model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> list[list[float]]:
    """By example and choice, log p(choice | prompt): the sum over the choice's tokens, not normalised by length.

    Choices that differ in their last token only are read from one forward pass.
    """
    contexts = [context for i, example in enumerate(examples) for context in _list_contexts(i, example)]
    scores = [[0.0] * len(example.choices) for example in examples]
    order = sort_by_length(contexts, range(len(contexts)))
    for start in range(0, len(order), BATCH):
        batch = [contexts[i] for i in order[start : start + BATCH]]
        for context, logs in zip(batch, _log_probabilities(model, batch, padding), strict=True):  # (kept, vocabulary)
            for i in context.choices:
                ids = torch.tensor(examples[context.example].choices[i], device=logs.device)
                columns = torch.arange(len(logs) - len(ids), len(logs), device=logs.device)
                scores[context.example][i] = float(logs[columns, ids].sum())
    return scores


def _list_contexts(index: int, example: Encoded) -> list[_Context]:
    choices: dict[tuple[int, ...], list[int]] = defaultdict(list)  # by all their tokens but the last
    for i, choice in enumerate(example.choices):
        choices[choice[:-1]].append(i)
    prompt = example.input_ids
    return [_Context(index, len(prompt), prompt + ids, tuple(alike)) for ids, alike in choices.items()]


def _log_probabilities(model: TaskModel, contexts: Sequence[_Context], padding: Padding) -> Tensor:
    """(contexts, kept, vocabulary): log probabilities of the next token, from the last token of each prompt on."""
    batch = pad_rows([context.input_ids for context in contexts], padding)
    mask = batch["attention_mask"]
    width = mask.shape[1]
    ends = torch.tensor([width - context.length + context.prompt_length for context in contexts])  # of the prompts
    prompt = (mask != 0) & (torch.arange(width) < ends[:, None])
    kept = max(context.length - context.prompt_length for context in contexts) + 1
    return get_last_logits(model, batch, prompt, kept).log_softmax(-1)
