"""Measured memory and time of one configuration: a dry step in a fresh process.

What memory means. On a CPU: the peak resident memory of a whole process that trains one client, one thread, batches at
their full length; Python, PyTorch and the other libraries are inside, and a data set of one's own is not. On CUDA: the
peak of what PyTorch allocates on the device; the CUDA context is outside.

glibc is told to return freed memory at once (`return_freed_memory`), so that the peak is what the training needs and
not what the allocator kept. A process that must hold to a limit has to call that too: without it, all-MiniLM-L6-v2 with
12 examples of 192 tokens peaked at 1,385 MiB in place of 983.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import TypeAdapter

from fedpeft.backbones import DTYPES
from fedpeft.budgets.shape import ModelShape
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
STEPS = 3  # the first makes the optimiser's state, so the second has the whole peak; times come from the later ones
MISTAKE = "mistake"  # the key under which a dry step answers with a user's mistake instead of figures


@dataclass(frozen=True)
class Workload:
    """What is trained, apart from what a budget may choose."""

    backbone: str
    max_length: int  # tokens of every example
    batch_size: int  # examples per optimiser step
    dtype: str = "float32"
    device: str = "cpu"
    num_labels: int = 2
    pooling: Literal["mean", "cls", "last"] = "mean"


@dataclass(frozen=True)
class DryStep:
    """What a process is asked to measure: a few steps of a workload under one configuration."""

    workload: Workload
    resources: ClientResources
    steps: int = STEPS


@dataclass(frozen=True)
class Measured:
    """One dry step's figures."""

    libraries_mib: float  # resident after the imports; 0 on CUDA
    loading_mib: float  # peak until the model was ready
    training_mib: float  # peak from then on
    step_seconds: float  # of one optimiser step
    uplink_bytes: int  # of the trained tensors as encoded
    trained: int  # parameters
    shape: ModelShape

    @property
    def peak_mib(self) -> float:
        """Peak of the whole process; loading may take more than training."""
        return max(self.loading_mib, self.training_mib)


REQUEST, ANSWER = TypeAdapter(DryStep), TypeAdapter(Measured)


def require_available(workload: Workload) -> None:
    """Raises UserError where this machine lacks the dtype or device; a dry step would say so only after its imports."""
    if workload.dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {workload.dtype!r}")
    try:
        device = torch.device(workload.device)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {workload.device!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: memory is measured on cpu and cuda. Received: {workload.device!r}")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(f"device: this torch sees {gpus} GPUs, use cpu or one of them. Received: {workload.device!r}")


def measure(workload: Workload, resources: ClientResources, steps: int = STEPS) -> Measured:
    """Trains `steps` steps in a fresh process and returns its figures.

    Raises UserError when the backbone cannot be loaded, or cannot be trained under these settings.
    """
    request = REQUEST.dump_json(DryStep(workload, resources, steps)).decode()
    command = [sys.executable, "-m", "fedpeft.budgets.dry_step", request]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD | QUIET)
    if process.returncode != 0:
        last_line = (process.stderr.strip() or "it printed no error").splitlines()[-1]
        raise UserError(
            f"a dry step of {workload.backbone!r} with {workload.batch_size} examples of {workload.max_length} tokens "
            f"ended with code {process.returncode}: {last_line}; try fewer tokens or examples"
        )
    answer = json.loads(process.stdout.splitlines()[-1])
    if MISTAKE in answer:
        raise UserError(answer[MISTAKE])
    return ANSWER.validate_python(answer)
