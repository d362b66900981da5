"""The time model: its work counted by hand, its coefficients found again."""

from dataclasses import replace

import pytest

from fedpeft.budgets.memory import Point
from fedpeft.budgets.step_time import count_work, fit_step_time
from fedpeft.resources import ClientResources

PER_TOKEN = 4 * 384 * 384 + 2 * 384 * 1536 + 2 * 128 * 384  # linear layers, and attention over 128 tokens


def make_point(shape, time, length, rows, resources):
    return Point(length, rows, resources, 700.0, time.predict(shape, length, rows, resources))


@pytest.mark.parametrize(
    ("resources", "passes"),
    [
        (ClientResources(8), 6 + 6),  # forward, backward
        (ClientResources(8, (4, 5)), 6 + 2),
        (ClientResources(8, (4,)), 6 + 2),  # the block above is passed as well
        (ClientResources(8, (4, 5), checkpointing=True), 6 + 2 * 2),  # and forward once more
    ],
)
def test_work_is_passes_through_blocks_times_tokens(shape, resources, passes):
    assert count_work(shape, 128, 16, resources) == (passes * PER_TOKEN * 16 * 128, passes)


def test_micro_batches_enter_blocks_more_often_and_multiply_no_more(shape):
    whole = count_work(shape, 128, 16, ClientResources(8))
    entered = {1: 16, 4: 4, 5: 4, 16: 1, 99: 1}
    for micro_batch, times in entered.items():
        products, blocks = count_work(shape, 128, 16, ClientResources(8, micro_batch=micro_batch))
        assert (products, blocks) == (whole[0], times * whole[1]), micro_batch


def test_seconds_are_the_sum_over_products_and_blocks(shape, time):
    seconds = time.predict(shape, 128, 16, ClientResources(8, micro_batch=4))
    assert seconds == pytest.approx(4e-11 * 12 * PER_TOKEN * 16 * 128 + 1e-4 * 12 * 4)


def test_coefficients_are_found_again(shape, time):
    sizes = [(192, 12), (96, 12), (192, 3), (48, 6)]
    points = [make_point(shape, time, length, rows, ClientResources(8)) for length, rows in sizes]
    fitted = fit_step_time(shape, points)
    assert (fitted.per_product, fitted.per_block) == pytest.approx((time.per_product, time.per_block), rel=1e-6)


def test_coefficients_are_never_negative(shape, time):
    """Steps that get quicker the more there is to do are noise."""
    points = [make_point(shape, time, length, 12, ClientResources(8)) for length in (48, 96, 192)]
    noise = [replace(point, step_seconds=1 / point.length) for point in points]
    fitted = fit_step_time(shape, noise)
    assert min(fitted.per_product, fitted.per_block) >= 0


def test_relative_errors_count_so_that_small_steps_are_fitted_too(shape, time):
    """The largest step takes twice its time: the five small ones are still met within a third."""
    points = [make_point(shape, time, length, 12, ClientResources(8)) for length in (8, 12, 16, 20, 24)]
    slow = make_point(shape, time, 192, 12, ClientResources(8))
    fitted = fit_step_time(shape, [*points, replace(slow, step_seconds=2 * slow.step_seconds)])
    for point in points:
        assert fitted.predict(shape, point.length, 12, point.resources) == pytest.approx(point.step_seconds, rel=0.34)
