"""How fast an experiment's rounds are under each option of the engine, on this machine, by running them.

The options share one backbone in memory, and their rounds take turns, so that a machine that is busy for a while slows
all of them alike. The first round is told apart: caches fill in it, and libraries warm up.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedpeft.acceleration import make_accelerations
from fedpeft.config import Experiment, PrefixCacheConfig
from fedpeft.runs.build import RunContext, assemble, assign_to_clients, default_workers, load_model
from fedpeft.tasks.load import load_task

ROUNDS = 3  # timed, after the first
AUTOCAST = "model.autocast"  # as --set names it


@dataclass(frozen=True)
class TimedOption:
    """One option: seconds of its first round and of each later one, and what it does to the results."""

    option: str
    settings: dict[str, Any]
    results: str
    first: float
    later: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median of the later rounds."""
        return median(self.later)


def list_options(experiment: Experiment) -> Iterator[tuple[str, dict[str, Any], str]]:
    """What may be chosen: a name, the settings, and what they do to the results."""
    workers = default_workers(experiment.model)
    plain: dict[str, Any] = {"engine": "local", "workers": 1, "prefix_cache": None, AUTOCAST: None}
    cache = experiment.prefix_cache or PrefixCacheConfig.model_validate({})
    several = {} if workers == 1 else {"workers": workers}
    yield "1 worker", plain, "exact"
    if several:
        yield f"{workers} workers", plain | several, "the same to the bit"
    yield "prefix cache", plain | several | {"prefix_cache": cache}, "the same but for rounding"
    yield "batched engine", plain | several | {"engine": "batched"}, "the same but for rounding"
    yield "bfloat16 products", plain | several | {AUTOCAST: "bfloat16"}, "rounded: compare the scores"


def apply_option(experiment: Experiment, settings: dict[str, Any]) -> Experiment:
    """The experiment under the settings of one option."""
    model = experiment.model.model_copy(update={"autocast": settings[AUTOCAST]})
    return experiment.model_copy(update={k: v for k, v in settings.items() if k != AUTOCAST} | {"model": model})


def bench(
    experiment: Experiment, label: str, base: Path, say: Callable[[str], None], rounds: int = ROUNDS
) -> list[TimedOption]:
    """Times rounds of the experiment, without evaluation, under each option; the fastest first. Raises UserError."""
    seed = experiment.seed
    data = load_task(experiment.task, experiment.partition, seed, base)
    model = load_model(experiment.model, experiment.task, len(data.labels), seed)
    built: dict[str, tuple[RunContext, dict[str, Any], str]] = {}
    for name, settings, results in list_options(experiment):
        under, method = apply_option(experiment, settings), experiment.build_method(label)
        ids = [client.id for client in data.clients]
        dealt = {} if method.pools_data else assign_to_clients(under, method, ids, model[0], seed)
        accelerations = make_accelerations(under.requested_accelerations())
        one = assemble(under, method, seed, data, model, dealt, accelerations)
        if not all(a.is_useful(m) for a in accelerations for m in one.templates.values()):
            one.engine.close()  # it could hold nothing
            continue
        built[name] = (one, settings, results)
    seconds: dict[str, list[float]] = {name: [] for name in built}
    try:
        for round_ in range(1 + rounds):
            for name, (one, _, _) in built.items():
                say(f"round {round_ + 1} of {1 + rounds}: {name}")
                began = time.perf_counter()
                one.federation.step()
                seconds[name].append(time.perf_counter() - began)
    finally:
        for one, _, _ in built.values():
            one.engine.close()
    timed = [TimedOption(n, s, r, seconds[n][0], tuple(seconds[n][1:])) for n, (_, s, r) in built.items()]
    return sorted(timed, key=lambda one: one.seconds)
