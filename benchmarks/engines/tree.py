"""A process with all that it starts, found by a mark in their environment: its memory, and its end (Linux)."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

MARK = "FEDPEFT_BENCHMARK"
EVERY = 0.25  # seconds between two looks
PATIENCE = 20.0  # seconds that what was left behind may take to end by itself


class Tree:
    """Every process whose environment holds MARK=mark, also those that no longer have a parent among them."""

    def __init__(self, mark: str) -> None:
        self._wanted = f"{MARK}={mark}".encode()
        self._known: dict[int, bool] = {}
        self.peak_mib = 0.0

    def watch(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for `process` and keeps the peak of the memory of all; returns the exit code."""
        while True:
            self.peak_mib = max(self.peak_mib, sum(memory_mib(pid) for pid in self.members()))
            try:
                return process.wait(EVERY)
            except subprocess.TimeoutExpired:
                continue

    def members(self) -> list[int]:
        there = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        self._known = {pid: self._known.get(pid) or self._is_member(pid) for pid in there}
        return [pid for pid, member in self._known.items() if member]

    def end(self, patience: float = PATIENCE) -> None:
        """Waits until all have ended; those that have not after `patience` seconds are killed."""
        until = time.monotonic() + patience
        while (left := self.members()) and time.monotonic() < until:
            time.sleep(EVERY)
        for pid in left:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, signal.SIGKILL)

    def _is_member(self, pid: int) -> bool:
        try:
            return self._wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            return False


def memory_mib(pid: int) -> float:
    """Proportional set size: what several processes share counts once. 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
