"""Threads that work on items: each item once, errors as data, deadlines, and nobody waits for one that hangs."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from fedpeft.engines import workers as module
from fedpeft.engines.workers import Abandoned, RoundOver, Workers, stop_if_abandoned

ITEMS = list(range(50))


@pytest.fixture(params=[1, 3])
def workers(request):
    workers = Workers(request.param, prepare=lambda number: None)
    yield workers
    workers.close()


@pytest.fixture
def release():
    """An event that ends what a test leaves hanging."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("hand_over", [0.0, 60.0])
def test_every_item_is_worked_on_once(workers, monkeypatch, hand_over):
    monkeypatch.setattr(module, "HAND_OVER", hand_over)
    for count in (0, 1, len(ITEMS)):
        seen = []
        ended = list(workers.run(lambda item, seen=seen: seen.append(item) or -item, ITEMS[:count]))
        assert sorted(seen) == sorted(one.item for one in ended) == ITEMS[:count]
        assert all(one.result == -one.item and one.error is None and one.seconds >= 0 for one in ended)


def test_threads_are_kept_and_no_more_than_items(workers):
    idents = set()
    for _ in range(3):
        list(workers.run(lambda item: idents.add(threading.get_ident()), ITEMS[:1]))
    assert len(idents) == 1


def test_each_thread_is_prepared_once():
    prepared = []
    workers = Workers(2, prepare=lambda number: prepared.append((threading.get_ident(), number)))
    barrier = threading.Barrier(2)
    for _ in range(2):
        list(workers.run(lambda item: barrier.wait(5), ITEMS[:2]))
    workers.close()
    assert len({ident for ident, _ in prepared}) == 2 and sorted(number for _, number in prepared) == [0, 1]


def test_a_thread_that_cannot_be_prepared_is_an_error_of_its_item():
    def prepare(number):
        raise RuntimeError("no such device")

    workers = Workers(2, prepare)
    ended = list(workers.run(lambda item: item, ITEMS[:3]))
    workers.close()
    assert [str(one.error) for one in ended] == ["no such device"] * 3


@pytest.mark.parametrize("error", [RuntimeError("of 7"), SystemExit(0), KeyboardInterrupt()])
def test_what_is_raised_is_an_error_of_its_item_alone(workers, error):
    def work(item):
        if item == 7:
            raise error
        return item

    ended = {one.item: one for one in workers.run(work, ITEMS)}
    assert ended.pop(7).error is error
    assert all(one.result == item for item, one in ended.items())


def test_an_item_past_its_deadline_is_a_timeout_and_others_go_on(workers, release):
    """Its late result is nobody's, and its worker, which another one replaced, ends."""
    threads = {}

    def work(item):
        threads[item] = threading.current_thread()
        if item in (2, 9):
            release.wait()
        return item

    ended = {one.item: one for one in workers.run(work, ITEMS[:20], deadline=0.1)}
    assert {item for item, one in ended.items() if isinstance(one.error, TimeoutError)} == {2, 9}
    assert all(one.result == item for item, one in ended.items() if item not in (2, 9))
    assert 0.1 <= ended[2].seconds < 2
    release.set()
    threads[2].join(5)
    assert not threads[2].is_alive()
    assert len(list(workers.run(work, ITEMS))) == len(ITEMS)


def test_a_larger_item_has_more_time(workers, release):
    ended = {one.item: one for one in workers.run(lambda item: release.wait(0.15), [1, 5], 0.1, size=lambda item: item)}
    assert isinstance(ended[1].error, TimeoutError) and ended[5].error is None


def test_who_stops_listening_abandons_what_is_under_way_and_begins_nothing_else(workers, monkeypatch):
    monkeypatch.setattr(module, "HAND_OVER", 0.0)  # every item comes back at once
    begun, stopped = [], threading.Event()

    def work(item):
        begun.append(item)
        try:
            while item:
                stop_if_abandoned()
                time.sleep(0.001)
        except Abandoned:
            stopped.set()
            raise

    ended = workers.run(work, ITEMS)
    assert next(ended).item == 0
    while len(begun) < 2:
        time.sleep(0.001)
    ended.close()
    assert stopped.wait(5)
    assert len(begun) <= 1 + workers.count
    assert [one.item for one in workers.run(lambda item: item, ITEMS[:3])] == ITEMS[:3] or workers.count > 1


def test_close_stops_what_is_under_way_though_its_run_is_not_closed(workers):
    begun = threading.Event()

    def work(item):
        begun.set()
        while True:
            stop_if_abandoned()
            time.sleep(0.001)

    ended = workers.run(work, ITEMS)
    threading.Thread(target=next, args=(ended, None), daemon=True).start()
    assert begun.wait(5)
    start = time.monotonic()
    workers.close()
    workers.close()
    assert time.monotonic() - start < module.CLOSE_SECONDS


def test_close_does_not_wait_for_one_that_hangs(workers, release, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    list(workers.run(lambda item: release.wait(), ITEMS[:1], deadline=0.01))
    start = time.monotonic()
    workers.close()
    assert time.monotonic() - start < 2


def test_outside_a_worker_nothing_is_abandoned():
    stop_if_abandoned()


HANGING = """
import sys, time
from fedpeft.engines.workers import Workers, exit_past_abandoned
workers = Workers(1, lambda number: None)
list(workers.run(lambda item: time.sleep(float(sys.argv[1])), [0], deadline=0.01))
print("over")
exit_past_abandoned(7)
print("not reached")
"""


@pytest.mark.parametrize(("seconds", "expected"), [("60", (7, "over\n")), ("0", (0, "over\nnot reached\n"))])
def test_a_thread_that_hangs_does_not_keep_the_process(seconds, expected):
    process = subprocess.run([sys.executable, "-c", HANGING, seconds], capture_output=True, text=True, timeout=30)
    assert (process.returncode, process.stdout) == expected, process.stderr


def test_the_process_of_a_thread_that_hangs_ends_by_itself():
    code = HANGING.replace("exit_past_abandoned(7)", "sys.exit(7)")
    process = subprocess.run([sys.executable, "-c", code, "60"], capture_output=True, text=True, timeout=30)
    assert (process.returncode, process.stdout) == (7, "over\n"), process.stderr


INTERRUPTED = """
import signal, sys, threading
from fedpeft.engines.workers import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
workers = Workers(2, lambda number: None)
try:
    list(workers.run(lambda item: (print(item, flush=True), threading.Event().wait()), [0]))
except KeyboardInterrupt:
    workers.close()
    sys.exit(130)
"""


def test_the_first_interrupt_ends_a_process_whose_client_hangs():
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


@pytest.mark.parametrize("deadline", [None, 20])
def test_when_the_time_for_all_is_over_every_item_has_ended(workers, release, deadline):
    """Those under way are abandoned, those that wait do not begin, and the next items find workers."""
    begun = []

    def work(item):
        begun.append(item)
        if item == 1:
            release.wait(20)
        return item

    started = time.monotonic()
    ended = {one.item: one for one in workers.run(work, [0, 1, *[1] * workers.count], deadline, round_deadline=0.2)}
    assert time.monotonic() - started < 5 and len(begun) == 1 + workers.count
    assert ended[0].result == 0 and isinstance(ended[1].error, RoundOver)
    assert [one.result for one in workers.run(lambda item: item, [7], round_deadline=20)] == [7]


@pytest.mark.parametrize(("deadline", "round_deadline", "most"), [(None, 0.2, 0.2), (20, 0.2, 0.2), (0.3, 20, 0.3)])
def test_the_wait_ends_when_the_first_deadline_may_pass(deadline, round_deadline, most):
    job = module._Job(print, [1, 2], deadline, lambda item: 1, round_deadline)
    assert 0 <= job.get_patience() <= most + 1e-6  # of a clock that counts from long ago
