"""Measured memory and time of one configuration: a dry step in a fresh process.

What memory means. On a CPU: the peak resident memory of a whole process that trains one client, one thread, batches at
their full length; Python, PyTorch and the other libraries are inside, and a data set of one's own is not. On CUDA: the
peak of what PyTorch allocates on the device; the CUDA context is outside.

glibc is told to give freed memory back at once (`return_freed_memory`), so that the peak is what the training needs
and not what the allocator kept. A process that is to hold to a limit must call that too: without it, all-MiniLM-L6-v2
with 12 rows of 192 tokens peaked at 1,385 MiB in place of 983.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fedpeft.backbones import DTYPES
from fedpeft.budgets.shape import ModelShape
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
STEPS = 3  # the first makes the optimiser's state, so the second has the whole peak; times come from the later ones


@dataclass(frozen=True)
class Workload:
    """What is trained, apart from what a budget may choose."""

    backbone: str
    max_length: int  # tokens of every row
    batch_size: int  # rows per optimiser step
    dtype: str = "float32"
    device: str = "cpu"
    num_labels: int = 2
    pooling: str = "mean"


@dataclass(frozen=True)
class Measured:
    """One dry step's figures. The process's peak is `peak_mib`; while loading it may be higher than while training."""

    libraries_mib: float  # resident after the imports; 0 on CUDA
    loading_mib: float  # peak until the model was ready
    loaded_mib: float  # resident then
    training_mib: float  # peak from then on
    step_seconds: float  # of one optimiser step
    uplink_bytes: int  # of the trained tensors as encoded
    trained: int  # parameters
    shape: ModelShape

    @property
    def peak_mib(self) -> float:
        return max(self.loading_mib, self.training_mib)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Measured":
        """The inverse of `as_dict`."""
        return cls(**{**plain, "shape": ModelShape.of(plain["shape"])})


def require_known(workload: Workload) -> None:
    """Raises UserError where this machine has no such dtype or device; a dry step would say so after its imports."""
    if workload.dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {workload.dtype!r}")
    try:
        device = torch.device(workload.device)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {workload.device!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: memory is measured on cpu and cuda. Received: {workload.device!r}")
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise UserError(f"device: this torch sees {seen} GPUs, use cpu or one of them. Received: {workload.device!r}")


def measure(workload: Workload, resources: ClientResources, steps: int = STEPS) -> Measured:
    """Trains `steps` steps in a fresh process. Raises UserError when the backbone cannot be loaded or trained so."""
    request = {"workload": asdict(workload), "resources": asdict(resources), "steps": steps}
    command = [sys.executable, "-m", "fedpeft.budgets.dry_step", json.dumps(request)]
    surroundings = os.environ | ONE_THREAD | QUIET
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        raise UserError(
            f"a dry step of {workload.backbone!r} with {workload.batch_size} rows of {workload.max_length} tokens "
            f"ended with code {done.returncode}: {said}; try fewer tokens or rows"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return Measured.of(answer)
