"""What a language model writes after a prompt."""

from collections.abc import Sequence
from typing import Any

import torch

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Encoded, Padding, pad_rows

BATCH = 16  # prompts continued at once


@torch.no_grad()
def generate(
    model: TaskModel, examples: Sequence[Encoded], padding: Padding, tokenizer: Any, new_tokens: int, **options: Any
) -> list[str]:
    """The text after each prompt, at most `new_tokens` long; greedy unless transformers' `options` say otherwise."""
    texts = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    for start in range(0, len(order), BATCH):
        positions = order[start : start + BATCH]
        batch = pad_rows([examples[i].input_ids for i in positions], padding)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        settings = {"do_sample": False, "pad_token_id": padding.id, "eos_token_id": tokenizer.eos_token_id} | options
        ids = model.model.generate(**batch, max_new_tokens=new_tokens, **settings)  # (batch, prompt + new)
        continuations = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(positions, continuations, strict=True):
            texts[i] = text
    return texts
