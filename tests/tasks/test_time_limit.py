"""What takes too long is an error in time, and stops; what ends in time is as if it had been called."""

import threading
import time

import pytest

from fedpeft.tasks.time_limit import call_within


def test_results_and_errors_are_handed_on():
    assert call_within(10, lambda: 7) == 7
    with pytest.raises(KeyError, match="x"):
        call_within(10, lambda: {}["x"])


def test_an_endless_loop_is_an_error_and_its_thread_ends():
    before, began = threading.active_count(), time.monotonic()
    with pytest.raises(TimeoutError, match=r"^it takes more than 0\.1 s$"):
        call_within(0.1, lambda: sum(0 for _ in iter(int, 1)))
    assert time.monotonic() - began < 5
    while threading.active_count() > before and time.monotonic() - began < 5:
        time.sleep(0.01)
    assert threading.active_count() == before
