"""Backbones of known sizes, models whose coefficients are known, and dry steps that take no time."""

import pytest

from fedpeft.budgets.measure import Measured, Workload
from fedpeft.budgets.memory import MemoryModel
from fedpeft.budgets.shape import ModelShape
from fedpeft.budgets.step_time import TimeModel
from fedpeft.resources import ClientResources

SQUARE = ("query", "key", "value", "output")


@pytest.fixture(autouse=True)
def can_checkpoint(monkeypatch):
    """Budgets as they are with checkpointing installed: their tests do not depend on its file."""
    for module in ("search_space", "probe"):
        monkeypatch.setattr(f"fedpeft.budgets.{module}.can_checkpoint", lambda: True)


@pytest.fixture
def shape() -> ModelShape:
    """6 blocks of width 384, as MiniLM."""
    return ModelShape(
        parameters=22_000_000,
        weight_bytes=88_000_000,
        element_bytes=4,
        blocks=6,
        width=384,
        intermediate=1536,
        heads=12,
        attention="sdpa",
        head_parameters=770,
        linear=dict.fromkeys(SQUARE, (384, 384)) | {"up": (384, 1536), "down": (1536, 384)},
    )


@pytest.fixture
def memory() -> MemoryModel:
    return MemoryModel(constant_mib=600.0, kept=1.05, working=2.5, maps=1.2, loading_mib=590.0, libraries_mib=490.0)


@pytest.fixture
def time() -> TimeModel:
    return TimeModel(per_product=4e-11, per_block=1e-4)


@pytest.fixture
def tiny_shape() -> ModelShape:
    """The sizes of the suite's tiny BERT, as a dry step reads them."""
    return ModelShape(
        parameters=16_930,
        weight_bytes=67_720,
        element_bytes=4,
        blocks=2,
        width=32,
        intermediate=48,
        heads=2,
        attention="sdpa",
        head_parameters=66,
        linear=dict.fromkeys(SQUARE, (32, 32)) | {"up": (32, 48), "down": (48, 32)},
    )


@pytest.fixture
def dry_steps(monkeypatch, tiny_shape) -> list[tuple[Workload, ClientResources]]:
    """Dry steps follow a rule instead of training: the list of those that were asked for.

    Peak in MiB: 600 + examples in a forward pass x tokens x (1 + blocks that keep activations).
    """
    asked_for: list[tuple[Workload, ClientResources]] = []

    def measure(workload: Workload, resources: ClientResources, steps: int = 3) -> Measured:
        asked_for.append((workload, resources))
        depth = tiny_shape.count_backward_blocks(resources)
        rows = resources.micro_batch or workload.batch_size
        return Measured(
            libraries_mib=490.0,
            loading_mib=590.0,
            training_mib=600.0 + rows * workload.max_length * (2 if resources.checkpointing else 1 + depth),
            step_seconds=0.001 * workload.batch_size * workload.max_length * (2 + depth),
            uplink_bytes=tiny_shape.estimate_uplink_bytes(resources),
            trained=tiny_shape.count_trained(resources),
            shape=tiny_shape,
        )

    monkeypatch.setattr("fedpeft.budgets.probe.measure", measure)
    monkeypatch.setattr("fedpeft.budgets.probe_file.measure", measure)
    return asked_for
