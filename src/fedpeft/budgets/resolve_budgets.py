"""Levels that state what a device has become levels that state what it trains: measured, chosen, verified.

Done once, before a run begins, so that the run's own experiment.yaml holds the settings themselves: a resumed run
depends on no measurement. Measurements are kept for the next time.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

from fedpeft.budgets.choose import Budget
from fedpeft.budgets.describe import describe_fit
from fedpeft.budgets.fit import fit_budget
from fedpeft.budgets.levels import states_budget
from fedpeft.budgets.measure import Workload
from fedpeft.budgets.probe_file import ProbeFile
from fedpeft.budgets.search_space import SearchSpace
from fedpeft.budgets.shape import DEFAULT_RANK
from fedpeft.config import Experiment, ResourceLevel
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources
from fedpeft.tasks.kinds import find_kind


def get_probe_path() -> Path:
    """Where measurements are kept: $XDG_CACHE_HOME/fedpeft/probes.json, ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedpeft" / "probes.json"


def resolve_budgets(experiment: Experiment, report: Callable[[str], None], path: Path) -> Experiment:
    """The experiment with every budget replaced by the largest configuration that keeps within it.

    A level's own rank and layers are the most that it gets. `report` is called with a line for each measurement and
    choice; `path` is the file that keeps measurements. Raises UserError when a budget fits nothing, or when the
    experiment's costs are not those that a dry step measures.
    """
    if not any(states_budget(level) for level in experiment.resources):
        return experiment
    _require_measurable(experiment)
    model, training = experiment.model, experiment.training
    workload = Workload(
        model.name, model.max_length, training.batch_size, model.dtype, model.devices[0], pooling=model.pooling
    )
    file = ProbeFile(path)
    probe = file.get_or_measure(workload, lambda what, done, total: report(f"dry step {done + 1} of {total}: {what}"))
    examples = (experiment.partition.max_train or 0) * training.local_epochs or None
    levels = []
    for index, level in enumerate(experiment.resources):
        if not states_budget(level):
            levels.append(level)
            continue
        budget = Budget(level.memory_mib or math.inf, level.uplink_mib_per_round, level.seconds_per_round)
        rank = level.rank or DEFAULT_RANK
        space = SearchSpace(model.max_length, training.batch_size, rank, level.layers, examples=examples)
        fit = fit_budget(file, probe, budget, space, f"resources[{index}]")
        report(f"resources[{index}], {describe_fit(fit, budget, probe.shape.blocks)}")
        levels.append(_fix_level(level, fit.candidate.resources))
    return experiment.model_copy(update={"resources": levels})


def _require_measurable(experiment: Experiment) -> None:
    """Raises UserError where a dry step would not measure what the experiment's clients take."""
    if find_kind(experiment.task.kind).is_decoder:
        raise UserError(
            "resources: memory_mib and other budgets are measured for encoders, whose cost is not a decoder's; "
            f"give rank, layers and micro_batch instead. Received: a task of kind {experiment.task.kind}"
        )
    if experiment.model.autocast is not None:
        raise UserError(
            "resources: memory_mib and other budgets are measured without model.autocast, which keeps a second copy of "
            "the weights; leave it out, or give rank, layers and micro_batch instead. "
            f"Received: {experiment.model.autocast}"
        )


def _fix_level(level: ResourceLevel, resources: ClientResources) -> ResourceLevel:
    """The level with the chosen settings in place of its budget."""
    return ResourceLevel(
        fraction=level.fraction,
        rank=resources.rank,
        layers=len(resources.layers) if resources.layers else None,
        density=level.density,
        micro_batch=resources.micro_batch,
        checkpointing=resources.checkpointing,
    )
