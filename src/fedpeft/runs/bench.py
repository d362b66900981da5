"""How fast an experiment's rounds are under each option of the engine, on this machine, by running them.

The options share one backbone in memory, and their rounds take turns, so that a machine that is busy for a while slows
all of them alike. The first round is timed apart: caches fill in it, and libraries warm up.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedpeft.acceleration import ON_REQUEST, make_accelerations
from fedpeft.config import Experiment, PrefixCacheConfig
from fedpeft.engines import list_engines
from fedpeft.environment import keep_threads
from fedpeft.runs.build import RunContext, assemble, default_workers, load_model
from fedpeft.tasks.load import load_task

ROUNDS = 3  # timed, after the first
AUTOCAST = "model.autocast"  # as --set names it


@dataclass(frozen=True)
class EngineOption:
    """One way to run the same rounds: its name, the keys of the experiment that choose it, and how its results differ
    from those of one worker."""

    name: str
    overrides: dict[str, Any]
    results: str


@dataclass(frozen=True)
class TimedOption:
    """An option with the seconds of its first round and of each later one."""

    option: EngineOption
    first: float
    later: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median of the later rounds."""
        return median(self.later)


def list_options(experiment: Experiment) -> Iterator[EngineOption]:
    """The options that the machine offers; the first is the plain engine, with exact results."""
    workers = default_workers(experiment.model)
    basic: dict[str, Any] = {"engine": "local", "workers": 1, "prefix_cache": None, AUTOCAST: None}
    cache = experiment.prefix_cache or PrefixCacheConfig.model_validate({})
    several = basic | ({} if workers == 1 else {"workers": workers})
    yield EngineOption("1 worker", basic, "exact")
    if workers > 1:
        yield EngineOption(f"{workers} workers", several, "the same to the bit")
    if "prefix_cache" in ON_REQUEST:
        yield EngineOption("prefix cache", several | {"prefix_cache": cache}, "the same but for rounding")
    if "batched" in list_engines():
        yield EngineOption("batched engine", several | {"engine": "batched"}, "the same but for rounding")
    yield EngineOption("bfloat16 products", several | {AUTOCAST: "bfloat16"}, "rounded: compare the scores")


def apply_option(experiment: Experiment, option: EngineOption) -> Experiment:
    """The experiment under the option."""
    model = experiment.model.model_copy(update={"autocast": option.overrides[AUTOCAST]})
    others = {key: value for key, value in option.overrides.items() if key != AUTOCAST}
    return experiment.model_copy(update=others | {"model": model})


@keep_threads()
def bench(
    experiment: Experiment, label: str, base: Path, report: Callable[[str], None], rounds: int = ROUNDS
) -> list[TimedOption]:
    """Times a first round and `rounds` later ones under each option, without evaluation; returns the fastest first.

    `report` is called with a line before each round; relative paths start at `base`. Raises UserError as a run does.
    """
    options = {option.name: option for option in list_options(experiment)}
    with ExitStack() as stack:
        contexts = _build_contexts(experiment, label, base, options, stack)
        seconds: dict[str, list[float]] = {name: [] for name in contexts}
        for round_ in range(1 + rounds):
            for name, context in contexts.items():
                report(f"round {round_ + 1} of {1 + rounds}: {name}")
                start = time.perf_counter()
                context.federation.step()
                seconds[name].append(time.perf_counter() - start)
    timed = [TimedOption(options[name], first, tuple(later)) for name, (first, *later) in seconds.items()]
    return sorted(timed, key=lambda option: option.seconds)


def _build_contexts(
    experiment: Experiment, label: str, base: Path, options: dict[str, EngineOption], stack: ExitStack
) -> dict[str, RunContext]:
    """A federation, by option, for each that can change anything, over one backbone and the same data; the stack closes
    their engines."""
    seed = experiment.seed
    data = load_task(experiment.task, experiment.partition, seed, base)
    model = load_model(experiment.model, experiment.task, len(data.labels), seed)
    contexts: dict[str, RunContext] = {}
    for name, option in options.items():
        changed, method = apply_option(experiment, option), experiment.build_method(label)
        accelerations = make_accelerations(changed.get_requested_accelerations())
        context = assemble(changed, method, seed, data, model, accelerations)
        stack.callback(context.engine.close)
        # A prefix cache has nothing to keep where the adapter touches the first block.
        if all(a.is_useful(template) for a in accelerations for template in context.templates.values()):
            contexts[name] = context
    return contexts
