"""The points that a probe measures, and the models that it fits."""

import pytest

from fedpeft.budgets.measure import Measured, Workload
from fedpeft.budgets.memory import MARGIN, MARGIN_MIB
from fedpeft.budgets.probe import fit_models, probe
from fedpeft.resources import ClientResources

WORKLOAD = Workload("a model", max_length=16, batch_size=4, dtype="bfloat16")


def test_each_setting_that_moves_memory_is_changed_once_then_all_together(dry_steps):
    probe(WORKLOAD)
    measured = [(w.batch_size, w.max_length, resources) for w, resources in dry_steps]
    assert measured == [
        (4, 16, ClientResources(8)),
        (4, 16, ClientResources(8, (1,))),
        (4, 8, ClientResources(8)),
        (1, 16, ClientResources(8)),
        (4, 16, ClientResources(8, checkpointing=True)),
        (2, 4, ClientResources(8, (1,))),
    ]
    assert {w.dtype for w, _ in dry_steps} == {"bfloat16"}


def test_checkpointing_that_nobody_provides_is_not_measured(dry_steps, monkeypatch):
    monkeypatch.setattr("fedpeft.budgets.probe.can_checkpoint", lambda: False)
    probe(WORKLOAD)
    assert [resources.checkpointing for _, resources in dry_steps] == [False] * 5


def test_the_smallest_workload_can_be_probed(dry_steps):
    probe(Workload("a model", max_length=4, batch_size=1))
    assert {(w.batch_size, w.max_length) for w, _ in dry_steps} == {(1, 4), (1, 2)}


def test_progress_is_reported_before_each_dry_step(dry_steps):
    reported = []
    probe(WORKLOAD, lambda description, done, total: reported.append((description, done, total, len(dry_steps))))
    assert [line[1:] for line in reported] == [(i, 6, i) for i in range(6)]
    assert [line[0] for line in reported] == [
        "the whole configuration",
        "4 x 16 tokens, 1 layers",
        "4 x 8 tokens, 2 layers",
        "1 x 16 tokens, 2 layers",
        "4 x 16 tokens, 2 layers, checkpointing",
        "2 x 4 tokens, 1 layers",
    ]


def test_predictions_are_compared_with_the_peak_that_was_measured(dry_steps, tiny_shape):
    result = probe(WORKLOAD)
    assert len(result.points) == 6 and result.shape == tiny_shape
    for point, ratio in zip(result.points, result.compare_predictions(), strict=True):
        predicted = result.memory.predict(tiny_shape, point.length, point.rows, point.resources)
        assert ratio == pytest.approx(predicted / max(point.training_mib, 590.0))
        assert 1 <= ratio < 1.1  # above by the margin


def test_the_highest_peak_of_loading_and_of_libraries_is_kept(tiny_shape):
    def make_figures(libraries_mib, loading_mib):
        return Measured(libraries_mib, loading_mib, 612.0, 0.01, 9000, 370, tiny_shape)

    own = ClientResources(8)
    figures = [(400.0, 500.0), (420.0, 480.0), (410.0, 495.0), (400.0, 499.0)]
    measured = [(4, 16 // (i + 1), own, make_figures(*pair)) for i, pair in enumerate(figures)]
    result = fit_models(WORKLOAD, measured)
    assert (result.memory.libraries_mib, result.memory.loading_mib) == (420.0, 500.0)
    assert result.workload == WORKLOAD
    assert [(p.rows, p.length) for p in result.points] == [(4, 16), (4, 8), (4, 5), (4, 4)]
    assert result.points[0].training_mib == 612.0 and result.points[0].step_seconds == 0.01


def test_where_loading_takes_more_than_training_predictions_are_compared_with_loading(dry_steps, tiny_shape):
    points = probe(WORKLOAD).points
    figures = Measured(490.0, 5000.0, 612.0, 0.01, 9000, 370, tiny_shape)
    result = fit_models(WORKLOAD, [(p.rows, p.length, p.resources, figures) for p in points])
    assert result.compare_predictions() == [pytest.approx((5000 + MARGIN_MIB) / 5000)] * 6


def test_the_margin_is_part_of_a_prediction(dry_steps, tiny_shape):
    memory = probe(WORKLOAD).memory
    assert memory.predict(tiny_shape, 16, 4, ClientResources(8)) >= memory.loading_mib + MARGIN_MIB
    assert 0 < MARGIN < 0.1
