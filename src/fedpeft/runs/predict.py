"""One client's exported adapter at work: labels, numbers or texts."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError
from fedpeft.federation.answers import generate
from fedpeft.federation.task import autocast, logits
from fedpeft.runs.build import encode_examples, load_model
from fedpeft.runs.export import damaged_export, read_card
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding, collate
from fedpeft.tasks.examples import Example
from fedpeft.tasks.prompts import DECODER_KINDS


def predict(
    run: Path,
    client: str,
    texts: list[str],
    pairs: list[str] | None = None,
    temperature: float | None = None,
    new_tokens: int | None = None,
) -> list[dict[str, Any]]:
    """By text what one client's personal model says: `label` and `probability`, a `number`, or the text `written`.

    `pairs` are the second texts, one for each text, where the run's task has pairs; a decoder's may be empty. A decoder
    writes at most `new_tokens` (default: as the task says), greedily at temperature 0 or None, else sampled with
    torch's global generator. Raises UserError when the run exported no such client or its adapter is damaged, for an
    empty or a missing text, and for options that the task has no use for.
    """
    card = read_card(run, client)
    task, config = card.task, card.model
    decoder = task.kind in DECODER_KINDS
    examples = _examples(task, texts, pairs)
    if not decoder:
        _require_unset(task, {"--temperature": temperature, "--max-new-tokens": new_tokens})
    if temperature is not None and not 0 <= temperature < math.inf:  # nan, too
        raise UserError(f"--temperature is a number from 0 on, 0 for greedy, received {temperature}")
    adapter = _adapter_config(run, client, card.folder)
    backbone, tokenizer = load_model(config, task, len(card.labels), seed=0)  # a head is loaded over the one drawn
    model = AdaptedModel(PeftModel.from_pretrained(backbone, str(card.folder), config=adapter))
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    rows = encode_examples(task, examples, tokenizer, config.max_length)
    with torch.inference_mode(), autocast(model, config.autocast_dtype):
        if decoder:
            sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
            most = new_tokens or task.max_new_tokens
            found = [{"written": text} for text in generate(model, rows, padding, tokenizer, most, **sampling)]
        else:
            found = _classified(model, rows, padding, card.labels, task.kind == "regression")
    given = [{"text": e.text} | ({} if e.text_pair is None else {"text_pair": e.text_pair}) for e in examples]
    return [text | said for text, said in zip(given, found, strict=True)]


def _examples(task: TaskConfig, texts: list[str], pairs: list[str] | None) -> list[Example]:
    """The rows to predict. Raises UserError where a text is empty or one of a pair is missing."""
    decoder = task.kind in DECODER_KINDS
    if task.text_pair is None:
        _require_unset(task, {"--text-pair": pairs})
    elif len(pairs or []) != len(texts):
        empty = "; it may be empty" if decoder else ""
        raise UserError(
            f"this run's task has pairs (second text: column {task.text_pair!r}): give one --text-pair for each "
            f"--text{empty}. Received {len(texts)} and {len(pairs or [])}"
        )
    if not all(text.strip() for text in texts):
        raise UserError("--text is empty; give a text")
    if not decoder and not all(pair.strip() for pair in pairs or []):
        raise UserError("--text-pair is empty; give a text")
    seconds = [pair if pair.strip() else None for pair in pairs] if pairs else [None] * len(texts)
    target = "" if decoder else None
    return [Example(text, 0, pair, target=target) for text, pair in zip(texts, seconds, strict=True)]


def _require_unset(task: TaskConfig, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value not in (None, []):
            what = f"is {task.kind}, nothing is written" if name != "--text-pair" else "has no text_pair"
            raise UserError(f"{name}: the run's task {what}; leave it out. Received {value}")


def _adapter_config(run: Path, client: str, folder: Path) -> PeftConfig:
    """How the adapter is made. Raises UserError where this or the weights cannot be read, before a model is loaded."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt"):
            pass  # opening reads the header, and that the file is as long as it says
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_export(run, client, f"{folder} cannot be read ({error!r})") from error
    if config.peft_type is None:
        raise damaged_export(run, client, f"{folder / CONFIG_NAME} names no kind of adapter")
    return config


def _classified(
    model: AdaptedModel, rows: list[Encoded], padding: Padding, labels: list[str], regression: bool
) -> list[dict[str, Any]]:
    found = logits(model, collate(rows, padding))  # (texts, outputs)
    if regression:
        return [{"number": value} for value in found.squeeze(-1).tolist()]
    return [{"label": labels[int(share.argmax())], "probability": float(share.max())} for share in found.softmax(-1)]
