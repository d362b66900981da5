"""From a client's budget to its resources: probe, choose, and hold the choice against a measured dry step."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedpeft.budgets.choose import Budget, Candidate, SearchSpace, choose
from fedpeft.budgets.measure import Measured, Workload, require_known
from fedpeft.budgets.memory import MARGIN, MARGIN_MIB, MIB
from fedpeft.budgets.probe import Probe, ProbeFile, Progress, probe
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Fit:
    """A chosen configuration: what it was predicted to take, and what its dry step took."""

    need: Candidate
    measured: Measured


def fit_resources(
    client_id: str,
    budget: Budget,
    backbone_name: str,
    max_length: int,
    batch_size: int,
    dtype: str,
    num_labels: int,
    cache: Path,
    *,
    device: str = "cpu",
    pooling: str = "mean",
    rank: int = 8,
    layers: int | None = None,
    densities: tuple[float, ...] = (1.0,),
    examples: int | None = None,
    progress: Progress = silent,
) -> ClientResources:
    """The largest resources that keeps within a client's budget, verified by a measured dry step.

    `cache` is a JSON file that keeps probes and dry steps, for all clients and backbones; it is made when it is not
    there. `rank`, `layers` (from the top), `densities` and `examples` (rows of a round) are as in `Wanted`. Raises
    UserError when nothing fits or the backbone cannot be measured.
    """
    workload = Workload(backbone_name, max_length, batch_size, dtype, device, num_labels, pooling)
    wanted = SearchSpace(max_length, batch_size, rank, layers, densities, examples)
    file = ProbeFile(cache)
    return fit(file, get_or_measure(file, workload, progress), budget, wanted, f"client {client_id!r}").need.resources


def check(
    workload: Workload,
    memory_mib: Sequence[float],
    uplink_mib: float | None,
    seconds: float | None,
    examples: int | None,
    out: Path,
) -> None:
    """Whether what is asked for makes sense, before minutes of dry steps. Raises UserError with the option's name."""
    limits = [("--memory-mib", value) for value in memory_mib]
    limits += [(name, v) for name, v in (("--uplink-mib", uplink_mib), ("--seconds", seconds)) if v is not None]
    for name, value in limits:
        if not 0 < value < math.inf:  # nan, too
            raise UserError(f"{name} is a number above 0, received {value}")
    if seconds is not None and examples is None:
        raise UserError(f"--seconds {seconds:g} is a limit of a round: say with --examples how many rows a round has")
    require_known(workload)
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"--out: {out} cannot be written as a file; name another")


def get_or_measure(file: ProbeFile, workload: Workload, progress: Progress = silent) -> Probe:
    """The probe of a workload: from the file, or made now and kept there."""
    known = file.get(workload)
    if known is None:
        known = probe(workload, progress)
        file.put(known)
    return known


def fit(file: ProbeFile, found: Probe, budget: Budget, wanted: SearchSpace, who: str = "this budget") -> Fit:
    """Chooses, measures the choice, and goes on to the next smaller prediction where the measured peak is too high.

    Memory is verified; the uplink is exact up to a few bytes of names, and seconds depend on what else the device does.
    Raises UserError.
    """
    limit, failed = budget.memory_mib, ""
    while True:
        try:
            need = choose(found.shape, found.memory, found.time, replace(budget, memory_mib=limit), wanted, who)
        except UserError as error:
            if not failed:
                raise
            raise UserError(f"{who}: {failed}") from error
        measured = file.verified(found.workload, need.resources)
        if measured.peak_mib <= budget.memory_mib:
            return Fit(need, measured)
        limit = math.nextafter(need.memory_mib, 0)
        failed = (
            f"{budget.memory_mib:g} MiB is less than the {math.ceil(measured.peak_mib)} MiB measured for the smallest "
            "configuration of this backbone; give at least that, shorter texts, or a smaller backbone"
        )


# ---- in words


def describe_probe(found: Probe) -> list[str]:
    """What was measured and how well the model fits it, line by line."""
    memory, shape, workload = found.memory, found.shape, found.workload
    where = "peak resident memory of the process" if workload.device == "cpu" else "peak allocated on the device"
    lines = [
        f"{workload.backbone}: {shape.parameters / 1e6:.1f} M parameters, {shape.blocks} blocks of width "
        f"{shape.width}, {shape.attention} attention, {workload.dtype}",
        f"memory is the {where}, all included: libraries {memory.libraries_mib:.0f} MiB and weights "
        f"{shape.weight_bytes / MIB:.0f} MiB are part of it",
        "measured (each fitted), MiB: peak, all included",
    ]
    for point, ratio in zip(found.points, found.errors(), strict=True):
        lines.append(
            f"  {point.rows:4d} rows x {point.length:4d} tokens  {_describe_resources(point.resources, shape.blocks):46s}"
            f"{point.training_mib:7.0f} MiB  {point.step_seconds:7.3f} s a step  predicted {100 * (ratio - 1):+.1f} %"
        )
    margin = f"a margin of {100 * MARGIN:.0f} % of training and {MARGIN_MIB:.0f} MiB included"
    ratios = found.errors()
    low, high = 100 * (min(ratios) - 1), 100 * (max(ratios) - 1)
    return [*lines, f"predictions are {low:+.1f} to {high:+.1f} % of these measurements, {margin}"]


def describe_fit(found: Fit, budget: Budget, blocks: int) -> str:
    """One line: the limits, what was chosen, predicted and measured."""
    need, measured = found.need, found.measured
    limits = [f"{budget.memory_mib:g} MiB"] * math.isfinite(budget.memory_mib)
    limits += [f"{budget.uplink_mib_per_round} MiB up a round"] * (budget.uplink_mib_per_round is not None)
    limits += [f"{budget.seconds_per_round} s a round"] * (budget.seconds_per_round is not None)
    return (
        f"{', '.join(limits) or 'no limit'}: {_describe_resources(need.resources, blocks)}: "
        f"{measured.trained:,} trained parameters, predicted {need.memory_mib:.0f} MiB, "
        f"measured {measured.peak_mib:.0f} MiB, {measured.uplink_bytes / MIB:.3f} MiB up a round, "
        f"{measured.step_seconds:.3f} s a step"
    )


def _describe_resources(resources: ClientResources, blocks: int) -> str:
    layers: Sequence[int] = resources.layers or range(blocks)
    parts = [f"rank {resources.rank}", f"top {len(layers)} of {blocks} layers"]
    parts += [f"density {resources.density:g}"] * (resources.density < 1)
    parts += [f"micro-batch {resources.micro_batch}"] * (resources.micro_batch is not None)
    parts += ["checkpointing"] * resources.checkpointing
    return ", ".join(parts)
