"""The machine's description, and the figures of memory that budgets are measured with."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import fedpeft
from fedpeft.environment import (
    MIB,
    count_usable_cores,
    describe_environment,
    keep_threads,
    read_peak_mib,
    read_resident_mib,
    reset_peak_memory,
    return_freed_memory,
)


def allocate(mib: int) -> np.ndarray:
    """A block of its own, every page written, that numpy gives back when the last name of it goes."""
    return np.ones(mib * MIB, dtype=np.uint8)


def test_the_description_names_what_a_figure_depends_on_and_is_json():
    described = describe_environment()
    assert described["fedpeft"] == fedpeft.__version__
    assert described["torch"] == torch.__version__
    assert described["processor"] and described["cores"] == os.cpu_count()
    assert (described["gpu"] is None) == (not torch.cuda.is_available())
    assert json.loads(json.dumps(described)) == described


def test_usable_cores_are_those_this_process_may_run_on():
    assert 1 <= count_usable_cores() <= (os.cpu_count() or 1)
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system keeps no set of cores for a process")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert count_usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_resident_memory_follows_what_is_held():
    before = read_resident_mib()
    block = allocate(64)
    assert read_resident_mib() - before == pytest.approx(64, abs=16)
    assert block.nbytes == 64 * MIB


def test_the_peak_outlives_what_caused_it_until_it_is_reset():
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system cannot forget a peak")
    reset_peak_memory()
    before = read_peak_mib()
    block = allocate(96)
    del block
    assert read_peak_mib() - before == pytest.approx(96, abs=16)
    reset_peak_memory()
    assert read_peak_mib() - before < 48
    assert read_peak_mib() >= read_resident_mib() - 1


KEEP_EVERY_SECOND = """
import torch
from fedpeft.environment import read_resident_mib, return_freed_memory
assert return_freed_memory()
tensors = [torch.ones(256, 256) for _ in range(400)]  # 256 KiB each, 100 MiB together
before = read_resident_mib()
kept = tensors[::2]
del tensors
assert len(kept) == 200 and before - read_resident_mib() > 45, before - read_resident_mib()
"""


def test_freed_tensors_go_back_to_the_system():
    """Every second tensor is kept, so that a heap of glibc's own choosing could give nothing back.

    In a process of its own: other tests leave gaps in the heap, and tensors that fill them are no blocks of their own.
    """
    if not return_freed_memory():
        pytest.skip("another C library than glibc")
    process = subprocess.run([sys.executable, "-c", KEEP_EVERY_SECOND], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_threads_are_as_before_whatever_happened_in_between():
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError), keep_threads():
        torch.set_num_threads(1)
        raise RuntimeError
    assert torch.get_num_threads() == 2
