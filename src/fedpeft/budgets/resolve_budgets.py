"""Levels that state what a device has, turned into levels that say what it carries: measured, chosen, verified.

Done once, before a run begins, so that the run's own experiment.yaml holds the levers themselves: a resumed run
depends on no measurement. Measurements are kept for the next time.
"""

import os
from collections.abc import Callable
from pathlib import Path

from fedpeft.budgets.choose import Budget, SearchSpace
from fedpeft.budgets.fit import describe_fit, fit, get_or_measure
from fedpeft.budgets.measure import Workload
from fedpeft.budgets.probe import ProbeFile
from fedpeft.config import Experiment, ResourceLevel
from fedpeft.errors import UserError
from fedpeft.tasks.prompts import DECODER_KINDS

RANK = 8  # wanted where a level with a budget does not say


def probe_cache() -> Path:
    """Where measurements are kept: $XDG_CACHE_HOME/fedpeft/probes.json, ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedpeft" / "probes.json"


def resolve_budgets(experiment: Experiment, say: Callable[[str], None], cache: Path) -> Experiment:
    """The experiment with every budget replaced by the largest configuration that keeps within it.

    A level's own rank and layers are what it would have at most. `say` hears what is measured and chosen. Raises
    UserError when a budget fits nothing, before anything else is done.
    """
    if not any(_limited(level) for level in experiment.resources):
        return experiment
    model, training = experiment.model, experiment.training
    if experiment.task.kind in DECODER_KINDS:
        raise UserError(
            "resources: memory_mib and other budgets are measured for encoders, whose cost is not a decoder's; "
            f"give rank, layers and micro_batch instead. Received: a task of kind {experiment.task.kind}"
        )
    if model.autocast is not None:
        raise UserError(
            "resources: memory_mib and other budgets are measured without model.autocast, which keeps a second copy of "
            f"the weights; leave it out, or give rank, layers and micro_batch instead. Received: {model.autocast}"
        )
    workload = Workload(model.name, model.max_length, training.batch_size, model.dtype, model.device)
    file = ProbeFile(cache)
    found = get_or_measure(file, workload, lambda what, done, total: say(f"dry step {done + 1} of {total}: {what}"))
    rows = (experiment.partition.max_train or 0) * training.local_epochs or None
    levels = []
    for place, level in enumerate(experiment.resources):
        if not _limited(level):
            levels.append(level)
            continue
        budget = Budget(level.memory_mib or float("inf"), level.uplink_mib_per_round, level.seconds_per_round)
        wanted = SearchSpace(model.max_length, training.batch_size, level.rank or RANK, level.layers, examples=rows)
        chosen = fit(file, found, budget, wanted, f"resources[{place}]")
        say(f"resources[{place}], {describe_fit(chosen, budget, found.shape.blocks)}")
        own = chosen.need.resources
        levels.append(
            ResourceLevel(
                share=level.share,
                rank=own.rank,
                layers=len(own.layers) if own.layers else None,
                density=level.density,
                micro_batch=own.micro_batch,
                checkpointing=own.checkpointing,
            )
        )
    return experiment.model_copy(update={"resources": levels})


def _limited(level: ResourceLevel) -> bool:
    return (level.memory_mib, level.uplink_mib_per_round, level.seconds_per_round) != (None, None, None)
