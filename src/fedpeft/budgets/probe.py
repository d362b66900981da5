"""Dry steps at a few points of one backbone, and the models of memory and time fitted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedpeft.acceleration import can_checkpoint
from fedpeft.budgets.measure import Measured, Workload, measure
from fedpeft.budgets.memory import MemoryModel, Point, fit_memory
from fedpeft.budgets.shape import DEFAULT_RANK, ModelShape
from fedpeft.budgets.step_time import TimeModel, fit_step_time
from fedpeft.resources import ClientResources

Progress = Callable[[str, int, int], None]  # called before each dry step: what it is, how many are done, of how many


@dataclass(frozen=True)
class Probe:
    """What was measured of one workload, and the models fitted to it."""

    workload: Workload
    shape: ModelShape
    points: tuple[Point, ...]
    memory: MemoryModel
    time: TimeModel

    def compare_predictions(self) -> list[float]:
        """Predicted peak, margin included, over the measured peak, for each point of the fit."""
        memory, shape = self.memory, self.shape
        return [
            memory.predict(shape, p.length, p.rows, p.resources) / max(p.training_mib, memory.loading_mib)
            for p in self.points
        ]


def ignore_progress(description: str, done: int, total: int) -> None:
    """Reports nothing."""


def probe(workload: Workload, progress: Progress = ignore_progress) -> Probe:
    """Measures six points, which takes minutes for a large backbone, and fits the models.

    Raises UserError as `measure` does.
    """
    progress("the whole configuration", 0, len(_plan_points(workload, blocks=1)))
    whole = measure(workload, ClientResources(DEFAULT_RANK))
    blocks = whole.shape.blocks
    (first, *rest) = _plan_points(workload, blocks)
    measured = [(*first, whole)]
    for done, (rows, length, resources) in enumerate(rest, 1):
        layers = len(resources.layers or range(blocks))
        checkpointing = ", checkpointing" * resources.checkpointing
        progress(f"{rows} x {length} tokens, {layers} layers{checkpointing}", done, len(rest) + 1)
        part = replace(workload, batch_size=rows, max_length=length)
        measured.append((rows, length, resources, measure(part, resources)))
    return fit_models(workload, measured)


def _plan_points(workload: Workload, blocks: int) -> list[tuple[int, int, ClientResources]]:
    """(examples, tokens, resources) of each point: each setting that moves memory changes once, then all together."""
    rows, length = workload.batch_size, workload.max_length
    upper_half, top_block = tuple(range(blocks - max(1, blocks // 2), blocks)), (blocks - 1,)
    whole = ClientResources(DEFAULT_RANK)
    return [
        (rows, length, whole),
        (rows, length, ClientResources(DEFAULT_RANK, upper_half)),
        (rows, max(2, length // 2), whole),
        (max(1, rows // 4), length, whole),
        *[(rows, length, ClientResources(DEFAULT_RANK, checkpointing=True))] * can_checkpoint(),
        (max(1, rows // 2), max(2, length // 4), ClientResources(DEFAULT_RANK, top_block)),
    ]


def fit_models(workload: Workload, measured: Sequence[tuple[int, int, ClientResources, Measured]]) -> Probe:
    """Fits the models to (examples, tokens, resources, figures) of each dry step; the first gives the shape."""
    shape = measured[0][3].shape
    points = tuple(Point(length, rows, own, m.training_mib, m.step_seconds) for rows, length, own, m in measured)
    loading_mib = max(m.loading_mib for *_, m in measured)
    libraries_mib = max(m.libraries_mib for *_, m in measured)
    memory = fit_memory(shape, points, loading_mib, libraries_mib)
    return Probe(workload, shape, points, memory, fit_step_time(shape, points))
