"""The machine, the versions and the memory that a number was measured with."""

import ctypes
import gc
import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import fedpeft

_MALLOPT = {-1: 128 * 1024, -3: 128 * 1024, -8: 1}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def environment() -> dict[str, object]:
    """What a reader needs to judge a figure: processor, cores, memory, Python and library versions."""
    return {
        "fedpeft": fedpeft.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "peft": version("peft"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def usable_cores() -> int:
    """The cores that this process may use: of a shared machine often fewer than it has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def return_freed_memory() -> bool:
    """Makes glibc give freed tensors back to the system at once, from one heap; False where the C library is another.

    By default glibc raises its thresholds as a process frees large blocks and keeps what later tensors might use:
    a small model's peak is then hundreds of MiB above what its training needs. Budgets are measured with this setting
    and hold with it only. Blocks under 128 KiB stay in the heap.
    """
    if not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # A threshold, once set, is no longer moved by glibc itself.
    return all(mallopt(parameter, value) == 1 for parameter, value in _MALLOPT.items())


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def reset_peak_memory() -> None:
    """Starts a new measurement of peak memory, where the system can (Linux, CUDA).

    What earlier work left over is given back first, or it would count as this one's.
    """
    gc.collect()
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)
    if _CLEAR_REFS.exists() and os.access(_CLEAR_REFS, os.W_OK):
        _CLEAR_REFS.write_text("5")  # 5: forget the peak resident set
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def resident_memory_mib() -> float:
    """Resident memory of this process in MiB now (its peak so far, where the system does not tell)."""
    found = _status_mib("VmRSS")
    return peak_memory_mib() if found is None else found


def peak_memory_mib() -> float:
    """Peak resident memory of this process in MiB since `reset_peak_memory` (since its start, where that cannot)."""
    found = _status_mib("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _status_mib(field: str) -> float | None:
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return None
