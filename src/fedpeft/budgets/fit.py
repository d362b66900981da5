"""From a client's budget to its resources: choose, then hold the choice against a measured dry step."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedpeft.backbones.locate import PACKAGE_PREFIX, find_package_model, locate_model
from fedpeft.budgets.choose import Budget, choose
from fedpeft.budgets.measure import Measured, Workload, require_available
from fedpeft.budgets.probe import Probe
from fedpeft.budgets.probe_file import ProbeFile
from fedpeft.budgets.search_space import Candidate, SearchSpace
from fedpeft.errors import UserError

MAX_LIMIT = 10**9  # MiB or seconds: a PiB, 30 years


@dataclass(frozen=True)
class Fit:
    """A chosen configuration: what it was predicted to take, and what its dry step took."""

    candidate: Candidate
    measured: Measured


def fit_budget(file: ProbeFile, probe: Probe, budget: Budget, space: SearchSpace, subject: str = "this budget") -> Fit:
    """Returns the largest configuration that keeps within the budget, verified by a dry step.

    Where the measured peak is too high, the next smaller prediction is tried. Memory alone is verified: the uplink is
    exact up to a few bytes of names, and seconds depend on what else the device does. Raises UserError, one line that
    starts with `subject`, when nothing fits.
    """
    limit, failure = budget.memory_mib, ""
    while True:
        try:
            allowed = replace(budget, memory_mib=limit)
            candidate = choose(probe.shape, probe.memory, probe.time, allowed, space, subject)
        except UserError as error:
            if not failure:
                raise
            raise UserError(f"{subject}: {failure}") from error
        measured = file.measure_once(probe.workload, candidate.resources)
        if measured.peak_mib <= budget.memory_mib:
            return Fit(candidate, measured)
        limit = math.nextafter(candidate.memory_mib, 0)
        failure = (
            f"{budget.memory_mib:g} MiB is less than the {math.ceil(measured.peak_mib)} MiB measured for the smallest "
            "configuration of this backbone; give at least that, shorter texts, or a smaller backbone"
        )


def check_options(
    workload: Workload,
    memory_mib: Sequence[float],
    uplink_mib: float | None,
    seconds: float | None,
    examples: int | None,
    out: Path,
) -> None:
    """Raises UserError, with the name of the option, for what can be seen to fail before minutes of dry steps."""
    limits = [("--memory-mib", value) for value in memory_mib]
    limits += [(name, v) for name, v in (("--uplink-mib", uplink_mib), ("--seconds", seconds)) if v is not None]
    for name, value in limits:
        if not 0 < value <= MAX_LIMIT:  # false for nan, too
            raise UserError(f"{name} is a number above 0 and at most {MAX_LIMIT:,}, received {value}")
    if seconds is not None and examples is None:
        raise UserError(
            f"--seconds {seconds:g} is a limit of a round: say with --examples how many examples a round trains on"
        )
    require_available(workload)
    if locate_model(workload.backbone, Path()).startswith(PACKAGE_PREFIX):
        find_package_model(workload.backbone)
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"--out: {out} cannot be written as a file; name another")
