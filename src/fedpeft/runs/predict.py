"""Predictions of one client's exported adapter: labels, numbers or texts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fedpeft.config import ModelConfig
from fedpeft.errors import UserError
from fedpeft.runs.export import make_damage_error, read_card
from fedpeft.runs.load_exported import load_exported
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Padding
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds import find_kind, make_task

BATCH = 64  # texts predicted at once


def predict(
    run: Path,
    client: str,
    texts: list[str],
    pairs: list[str] | None = None,
    temperature: float | None = None,
    new_tokens: int | None = None,
    prepare: Callable[[ModelConfig], None] = lambda model: None,
) -> list[dict[str, Any]]:
    """What one client's exported model says of each text: `label` and `probability`, a `number`, or the text `written`.

    `pairs` are the second texts, one for each text, where the run's task has pairs; a decoder's may be empty. A decoder
    writes at most `new_tokens` (default: as the task says), greedily at temperature 0 or None, else sampled with
    torch's global generator. Raises UserError when the run exported no such client or its adapter is damaged or none of
    ours, for an empty or a missing text, and for options that the task has no use for. `prepare` gives the run's model
    what a program had given it.
    """
    card = read_card(run, client)
    config, task_config = card.model, card.task
    prepare(config)
    examples = _make_examples(task_config, texts, pairs)
    if not find_kind(task_config.kind).is_decoder:
        _require_unset(task_config, {"--temperature": temperature, "--max-new-tokens": new_tokens})
    if temperature is not None and not 0 <= temperature < math.inf:  # nan, too
        raise UserError(f"--temperature is a number from 0 on, 0 for greedy, received {temperature}")
    if new_tokens:
        task_config = task_config.model_copy(update={"max_new_tokens": new_tokens})
    loaded = load_exported(run, client, card.model_copy(update={"task": task_config}))
    model, tokenizer = loaded.model, loaded.tokenizer
    task = make_task(task_config, card.labels, tokenizer, config.max_length, config.autocast_dtype)
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    writing: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {}
    encoded = task.encode(examples)
    predictions: list[dict[str, Any]] = []
    with torch.inference_mode():
        for start in range(0, len(encoded), BATCH):
            predictions += task.predict(model, encoded[start : start + BATCH], padding, **writing)
    numbers = [value for prediction in predictions for value in prediction.values() if isinstance(value, float)]
    if not all(map(math.isfinite, numbers)):
        raise make_damage_error(run, client, "what it predicts is not a finite number")
    queries = [{"text": e.text} | ({} if e.text_pair is None else {"text_pair": e.text_pair}) for e in examples]
    return [query | prediction for query, prediction in zip(queries, predictions, strict=True)]


def _make_examples(task: TaskConfig, texts: list[str], pairs: list[str] | None) -> list[Example]:
    """The examples to predict. Raises UserError where a text is empty or one of a pair is missing."""
    is_optional = find_kind(task.kind).pair_is_optional
    if task.text_pair is None:
        _require_unset(task, {"--text-pair": pairs})
    elif len(pairs or []) != len(texts):
        empty = "; it may be empty" if is_optional else ""
        raise UserError(
            f"this run's task has pairs (second text: column {task.text_pair!r}): give one --text-pair for each "
            f"--text{empty}. Received {len(texts)} and {len(pairs or [])}"
        )
    if not all(text.strip() for text in texts):
        raise UserError("--text is empty; give a text")
    if not is_optional and not all(second.strip() for second in pairs or []):
        raise UserError("--text-pair is empty; give a text")
    seconds = [second if second.strip() else None for second in pairs] if pairs else [None] * len(texts)
    return [Example(text, 0, second) for text, second in zip(texts, seconds, strict=True)]


def _require_unset(task: TaskConfig, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value not in (None, []):
            what = f"is {task.kind}, nothing is written" if name != "--text-pair" else "has no text_pair"
            raise UserError(f"{name}: the run's task {what}; leave it out. Received {value}")
