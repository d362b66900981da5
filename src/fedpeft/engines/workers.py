"""Daemon threads for an engine's clients. One that hangs is left behind at its deadline, and ends with the process."""

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
HAND_OVER = 0.01  # seconds: what a worker ends within it comes back together, so short rounds wake nobody each
LONGEST_WAIT = 1.0  # seconds: an interrupt that comes just before a wait is seen only when that wait ends
CLOSE_SECONDS = 2.0  # most that `close` waits for threads to notice that they were abandoned


class RoundOver(TimeoutError):
    """What an item ends with that had no result when the time for all of them was over, begun or not."""


class Abandoned(BaseException):
    """Ends the work of an abandoned thread. Not an Exception, so that no method's own handler catches it."""


@dataclass(frozen=True)
class Ended(Generic[Item, Result]):
    """An item that was worked on for `seconds`: its result, or what was raised; TimeoutError at its deadline."""

    item: Item
    seconds: float
    result: Result | None = None
    error: BaseException | None = None


def stop_if_abandoned() -> None:
    """Raises Abandoned in a worker's thread whose result nobody waits for; does nothing elsewhere."""
    worker = threading.current_thread()
    if isinstance(worker, _Worker) and worker.is_abandoned:
        raise Abandoned


def exit_past_abandoned(code: int) -> None:
    """Ends the process with an exit code where an abandoned worker is still at work; returns where none is.

    Python's own end would take the interpreter from under its thread, and torch would abort the process.
    """
    if any(isinstance(thread, _Worker) and thread.is_abandoned for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Workers:
    """Up to `count` threads, kept from one `run` to the next; `prepare` is called in each before its first item.

    It is given the thread's number, from 0; whoever takes an abandoned thread's place takes its number.
    """

    def __init__(self, count: int, prepare: Callable[[int], None]) -> None:
        self.count, self._prepare = count, prepare
        self._threads: set[_Worker] = set()  # those not abandoned
        self._queue: SimpleQueue[_Job[Any, Any] | None] = SimpleQueue()
        self._jobs: set[_Job[Any, Any]] = set()  # not at their end

    def run(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        deadline: float | None = None,
        size: Callable[[Item], int] = lambda item: 1,
        round_deadline: float | None = None,
    ) -> Iterator[Ended[Item, Result]]:
        """Works on the items in their order, as workers get free; yields them as they end, in any order.

        `deadline` is the seconds that an item of size 1 may take from when it begins; the worker of one that takes
        longer is abandoned, and another takes its place. After `round_deadline` seconds from now whatever has not
        ended does so with RoundOver. Whatever `work` raises comes back as an error. When the caller stops listening,
        no other item begins and the workers of those under way are abandoned.
        """
        job, left = _Job(work, items, deadline, size, round_deadline), len(items)
        workers = min(self.count, left)
        self._jobs.add(job)
        self._start(workers - len(self._threads))
        self._give(job, workers)
        try:
            while left:
                job.wake.wait(min(job.get_patience(), LONGEST_WAIT))
                job.wake.clear()
                overdue = job.abandon_overdue()
                self._threads -= overdue
                self._start(len(overdue))
                self._give(job, len(overdue))
                while job.ended:
                    left -= 1
                    yield job.ended.popleft()
        finally:
            self._abandon(job)

    def close(self) -> None:
        """Ends all threads, without waiting for one that hangs. May be called again."""
        for job in list(self._jobs):
            self._abandon(job)
        for _ in self._threads:
            self._queue.put(None)
        self._threads.clear()
        until = time.monotonic() + CLOSE_SECONDS
        for thread in threading.enumerate():
            if isinstance(thread, _Worker) and thread.queue is self._queue:
                thread.join(max(0.0, until - time.monotonic()))

    def _start(self, count: int) -> None:
        used = {worker.number for worker in self._threads}
        free = (number for number in range(self.count) if number not in used)
        for number in islice(free, max(0, count)):
            worker = _Worker(self._queue, self._prepare, number)
            self._threads.add(worker)
            worker.start()

    def _give(self, job: "_Job[Any, Any]", times: int) -> None:
        """Puts the job where so many workers will take it; each works on it as long as anything waits."""
        for _ in range(times):
            self._queue.put(job)

    def _abandon(self, job: "_Job[Any, Any]") -> None:
        self._jobs.discard(job)
        self._threads -= job.abandon()


class _Worker(threading.Thread):
    def __init__(
        self, queue: "SimpleQueue[_Job[Any, Any] | None]", prepare: Callable[[int], None], number: int
    ) -> None:
        super().__init__(name="client", daemon=True)
        self.queue, self._prepare, self.number = queue, prepare, number
        self.is_abandoned = self.is_prepared = False

    def run(self) -> None:
        while not self.is_abandoned and (job := self.queue.get()) is not None:
            job.work_on(self)

    def prepare(self) -> None:
        """Prepares the thread, once; called for an item, whose error it is where it fails."""
        if not self.is_prepared:
            self._prepare(self.number)
            self.is_prepared = True


class _Job(Generic[Item, Result]):
    """One call of `run`: which items wait, which are under way with whom and since when, and which have ended."""

    def __init__(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        deadline: float | None,
        size: Callable[[Item], int],
        round_deadline: float | None,
    ) -> None:
        self.work, self.size = work, size
        self.deadline = math.inf if deadline is None else deadline
        self.until = math.inf if round_deadline is None else time.monotonic() + round_deadline
        self.waiting = deque(items)
        self.under_way: dict[_Worker, tuple[Item, float]] = {}
        self.ended: deque[Ended[Item, Result]] = deque()
        self.lock = threading.Lock()  # of the three above
        self.wake = threading.Event()

    def work_on(self, worker: _Worker) -> None:
        """Works on items as long as any waits, in the worker's thread."""
        last_wake = time.monotonic()
        while (begun := self._begin(worker)) is not None:
            item, began = begun
            result, error = None, None
            try:
                worker.prepare()
                result = self.work(item)
            except BaseException as raised:  # in this thread nothing that is raised is meant for the process
                error = raised
            now = time.monotonic()
            if not self._end(worker, Ended(item, now - began, result, error)):
                return
            if now - last_wake > HAND_OVER:
                last_wake = now
                self.wake.set()
        self.wake.set()

    def _begin(self, worker: _Worker) -> tuple[Item, float] | None:
        with self.lock:
            if not self.waiting:
                return None
            self.under_way[worker] = begun = self.waiting.popleft(), time.monotonic()
            return begun

    def _end(self, worker: _Worker, ended: Ended[Item, Result]) -> bool:
        """Records what came of the worker's item; returns False where the worker was abandoned."""
        with self.lock:
            if not worker.is_abandoned:
                del self.under_way[worker]
                self.ended.append(ended)
            return not worker.is_abandoned

    def get_patience(self) -> float:
        """Seconds until a deadline may pass; infinite where there is none."""
        now = time.monotonic()
        if math.isinf(self.deadline):
            return max(0.0, self.until - now)
        with self.lock:
            ends = [began + self.deadline * self.size(item) for item, began in self.under_way.values()]
            ends += [now + self.deadline * self.size(item) for item in self.waiting]
            return max(0.0, min([*ends, self.until]) - now)

    def abandon_overdue(self) -> set[_Worker]:
        """Abandons the workers whose item's deadline has passed, and returns them; when all time is over, all."""
        with self.lock:
            now = time.monotonic()
            is_over = now >= self.until
            overdue = [
                (worker, item, now - began)
                for worker, (item, began) in self.under_way.items()
                if is_over or now - began >= self.deadline * self.size(item)
            ]
            for worker, item, seconds in overdue:
                del self.under_way[worker]
                worker.is_abandoned = True
                self.ended.append(Ended(item, seconds, error=RoundOver() if is_over else TimeoutError()))
            if is_over:
                self.ended.extend(Ended(item, 0.0, error=RoundOver()) for item in self.waiting)
                self.waiting.clear()
        return {worker for worker, _, _ in overdue}

    def abandon(self) -> set[_Worker]:
        """Lets nothing else begin, abandons the workers of what is under way, and returns them."""
        with self.lock:
            workers = set(self.under_way)
            self.waiting.clear()
            self.under_way.clear()
            for worker in workers:
                worker.is_abandoned = True
        return workers
