"""The machine, the versions and the memory that a number was measured with."""

import ctypes
import gc
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

import fedpeft
from fedpeft.units import MIB

_MALLOPT = {-1: 128 * 1024, -3: 128 * 1024, -8: 1}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def describe_environment() -> dict[str, object]:
    """The processor, cores, GPU and versions by name, as a reader needs them to judge a figure."""
    return {
        "fedpeft": fedpeft.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "peft": version("peft"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def count_usable_cores() -> int:
    """Counts the cores that this process may use: on a shared machine often fewer than it has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def keep_threads() -> Iterator[None]:
    """Context manager (and decorator) after which torch has as many threads as before: a run sets one, and whoever
    called it may go on with other work."""
    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)


def _read_processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def return_freed_memory() -> bool:
    """Makes glibc return freed tensors to the system at once, from one heap; returns whether the C library is glibc.

    By default glibc raises its thresholds as a process frees large blocks, and keeps what later tensors might use:
    a small model's peak is then hundreds of MiB above what its training needs. Budgets are measured with this setting
    and hold only with it. Blocks under 128 KiB stay in the heap.
    """
    if not _uses_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # glibc itself no longer moves a threshold that was set.
    return all(mallopt(parameter, value) == 1 for parameter, value in _MALLOPT.items())


def _uses_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def reset_peak_memory() -> None:
    """Starts a new measurement of peak memory, where the system can (Linux, CUDA).

    Memory that earlier work freed goes back to the system first: it would count as part of the new peak.
    """
    gc.collect()
    if _uses_glibc():
        ctypes.CDLL(None).malloc_trim(0)
    if _CLEAR_REFS.exists() and os.access(_CLEAR_REFS, os.W_OK):
        _CLEAR_REFS.write_text("5")  # 5: forget the peak resident set
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def read_resident_mib() -> float:
    """Resident memory of this process in MiB; outside Linux its peak so far."""
    resident = _read_status_mib("VmRSS")
    return read_peak_mib() if resident is None else resident


def read_peak_mib() -> float:
    """Peak resident memory of this process in MiB since `reset_peak_memory`; outside Linux since its start."""
    since_reset = _read_status_mib("VmHWM")
    if since_reset is not None:
        return since_reset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)  # in bytes there, in KiB elsewhere


def _read_status_mib(field: str) -> float | None:
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return None
