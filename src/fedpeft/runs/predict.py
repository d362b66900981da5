"""One client's exported adapter at work: labels, numbers or texts."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from fedpeft.adapters import Slot
from fedpeft.config import ModelConfig
from fedpeft.errors import UserError
from fedpeft.federation.answers import generate
from fedpeft.federation.task import logits, lowered
from fedpeft.runs.build import encoded, load_model
from fedpeft.runs.export import adapter_card
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding, labelled
from fedpeft.tasks.prompts import DECODER_KINDS
from fedpeft.tasks.types import Example


def predict(
    run: Path, client: str, texts: list[str], temperature: float = 0.0, new_tokens: int | None = None
) -> list[dict[str, Any]]:
    """By text what one client's personal model says: `label` and `probability`, a `number`, or the text `written`.

    A decoder writes at most `new_tokens` (default: as the task says), greedily at temperature 0, else sampled with
    torch's global generator. Raises UserError when the run exported no such client, and
    for an empty text.
    """
    card = adapter_card(run, client)
    if not all(text.strip() for text in texts):
        raise UserError("--text is empty; give a text")
    task = TaskConfig(**card["task"])
    config = ModelConfig(**card["model"])
    backbone, tokenizer = load_model(config, task, len(card["labels"]), seed=0)  # a head is loaded over the one drawn
    model = Slot(PeftModel.from_pretrained(backbone, str(run / "clients" / client / "adapter")))
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    decoder = task.kind in DECODER_KINDS
    examples = [Example(text, 0, target="" if decoder else None) for text in texts]
    rows = encoded(task, examples, tokenizer, config.max_length)
    with torch.inference_mode(), lowered(model, config.products):
        if decoder:
            sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
            most = new_tokens or task.max_new_tokens
            found = [{"written": text} for text in generate(model, rows, padding, tokenizer, most, **sampling)]
        else:
            found = _classified(model, rows, padding, card["labels"], task.kind == "regression")
    return [{"text": text} | said for text, said in zip(texts, found, strict=True)]


def _classified(
    model: Slot, rows: list[Encoded], padding: Padding, labels: list[str], regression: bool
) -> list[dict[str, Any]]:
    found = logits(model, labelled(rows, padding))  # (texts, outputs)
    if regression:
        return [{"number": value} for value in found.squeeze(-1).tolist()]
    return [{"label": labels[int(share.argmax())], "probability": float(share.max())} for share in found.softmax(-1)]
