"""Probes and chosen configurations in words, for the commands to show."""

import math

from fedpeft.budgets.choose import Budget
from fedpeft.budgets.fit import Fit
from fedpeft.budgets.memory import MARGIN, MARGIN_MIB
from fedpeft.budgets.probe import Probe
from fedpeft.resources import ClientResources
from fedpeft.units import MIB


def describe_probe(probe: Probe) -> list[str]:
    """What was measured and how well the model fits it, line by line."""
    memory, shape, workload = probe.memory, probe.shape, probe.workload
    meaning = "peak resident memory of the process" if workload.device == "cpu" else "peak allocated on the device"
    ratios = probe.compare_predictions()
    lines = [
        f"{workload.backbone}: {shape.parameters / 1e6:.1f} M parameters, {shape.blocks} blocks of width "
        f"{shape.width}, {shape.attention} attention, {workload.dtype}",
        f"memory is the {meaning}, all included: libraries {memory.libraries_mib:.0f} MiB and weights "
        f"{shape.weight_bytes / MIB:.0f} MiB are part of it",
        "measured (each fitted), MiB: peak, all included",
    ]
    for point, ratio in zip(probe.points, ratios, strict=True):
        size = f"{point.rows:4d} examples x {point.length:4d} tokens"
        lines.append(
            f"  {size}  {describe_resources(point.resources, shape.blocks):46s}{point.training_mib:7.0f} MiB  "
            f"{point.step_seconds:7.3f} s a step  predicted {100 * (ratio - 1):+.1f} %"
        )
    low, high = 100 * (min(ratios) - 1), 100 * (max(ratios) - 1)
    margin = f"a margin of {100 * MARGIN:.0f} % of training and {MARGIN_MIB:.0f} MiB included"
    return [*lines, f"predictions are {low:+.1f} to {high:+.1f} % of these measurements, {margin}"]


def describe_fit(fit: Fit, budget: Budget, blocks: int) -> str:
    """One line: the limits, what was chosen of `blocks` blocks, what was predicted and measured."""
    candidate, measured = fit.candidate, fit.measured
    limits = [f"{budget.memory_mib:g} MiB"] * math.isfinite(budget.memory_mib)
    limits += [f"{budget.uplink_mib_per_round} MiB up a round"] * (budget.uplink_mib_per_round is not None)
    limits += [f"{budget.seconds_per_round} s a round"] * (budget.seconds_per_round is not None)
    return (
        f"{', '.join(limits) or 'no limit'}: {describe_resources(candidate.resources, blocks)}: "
        f"{measured.trained:,} trained parameters, predicted {candidate.memory_mib:.0f} MiB, "
        f"measured {measured.peak_mib:.0f} MiB, {measured.uplink_bytes / MIB:.3f} MiB up a round, "
        f"{measured.step_seconds:.3f} s a step"
    )


def describe_resources(resources: ClientResources, blocks: int) -> str:
    """The settings that differ from the defaults, with the rank and the layers out of `blocks`."""
    layers = blocks if resources.layers is None else len(resources.layers)
    parts = [f"rank {resources.rank}", f"top {layers} of {blocks} layers"]
    parts += [f"density {resources.density:g}"] * (resources.density < 1)
    parts += [f"micro-batch {resources.micro_batch}"] * (resources.micro_batch is not None)
    parts += ["checkpointing"] * resources.checkpointing
    return ", ".join(parts)
