"""A few real training steps on random tokens, in a process of their own: what a configuration truly takes.

    python -m fedpeft.runs.dry_step JSON

is what `fedpeft.runs.measure` starts; the last line it prints is the result, or the user's mistake. It imports what a
run imports, so the libraries' share of the peak is that of a run.
"""

import json
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

import fedpeft.runs.runner  # noqa: F401  (only for its share of memory)
from fedpeft.adapters import Slot, block_count, load_backbone, lora_config
from fedpeft.budgets import Allotment
from fedpeft.budgets.shape import DEFAULT_RANK, ModelShape, read_shape
from fedpeft.engines.models import attach
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, wire_size
from fedpeft.federation.settings import TrainingConfig
from fedpeft.federation.task import Classification
from fedpeft.federation.training import Course, train_locally
from fedpeft.runs.environment import peak_memory_mib, reset_peak_memory, resident_memory_mib, return_freed_memory
from fedpeft.tasks.encode import Encoded, Padding

MIB = 1024 * 1024


def dry_step(workload: dict[str, Any], allotment: Allotment, steps: int) -> dict[str, Any]:
    """Trains `steps` steps; memory in MiB as `fedpeft.runs.measure.Measured` describes it."""
    torch.set_num_threads(1)
    libraries = resident_memory_mib()
    backbone, _ = load_backbone(
        workload["backbone"],
        num_labels=workload["num_labels"],
        pooling=workload["pooling"],
        dtype=workload["dtype"],
        device=workload["device"],
    )
    _touch(backbone)
    slot = _slot(backbone, allotment)
    client = _client(slot, allotment, workload, steps)
    cuda = slot.parameters()[0].is_cuda
    loading = torch.cuda.max_memory_allocated() / MIB if cuda else peak_memory_mib()
    loaded = torch.cuda.memory_allocated() / MIB if cuda else resident_memory_mib()
    reset_peak_memory()
    ticks = [time.perf_counter()]

    def observe() -> None:
        if cuda:
            torch.cuda.synchronize()
        ticks.append(time.perf_counter())

    settings = TrainingConfig(batch_size=workload["batch_size"])
    course = Course(slot, client, slot.names, 1e-4, settings, torch.Generator().manual_seed(0))
    train_locally(course, observe=observe)
    training = torch.cuda.max_memory_allocated() / MIB if cuda else peak_memory_mib()
    passed = [later - earlier for earlier, later in pairwise(ticks[1:])]
    return {
        "libraries_mib": 0.0 if cuda else libraries,
        "loading_mib": loading,
        "loaded_mib": loaded,
        "training_mib": training,
        "step_seconds": median(passed or [ticks[1] - ticks[0]]),  # the first step warms up
        "uplink_bytes": wire_size(Message("client", 1, slot.read())),
        "trained": sum(slot.sizes().values()),
        "shape": _shape(backbone, slot).as_dict(),
    }


def _touch(backbone: nn.Module) -> None:
    """Reads every weight: files are mapped, and a few steps would leave most of an embedding on disk."""
    for parameter in backbone.parameters():
        float(parameter.detach().sum())


def _slot(backbone: nn.Module, allotment: Allotment) -> Slot:
    rank = allotment.rank or DEFAULT_RANK
    config = lora_config(backbone, rank, 2 * rank, allotment.layers or "all", density=allotment.density)
    slot = Slot(attach(backbone, config, 0))
    slot.lean_()
    slot.checkpointing_(allotment.checkpointing)
    return slot


def _client(slot: Slot, allotment: Allotment, workload: dict[str, Any], steps: int) -> Client:
    """A client whose rows have the full length, or one token less so that there is padding to mask: the worst case."""
    count, length = steps * workload["batch_size"], workload["max_length"]
    vocabulary = slot.model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Encoded(tuple(row[i % 2 :]), i % workload["num_labels"]) for i, row in enumerate(ids)]
    spec = ClientSpec("dry step", count, allotment)
    return Client(spec, {"train": rows}, Classification(workload["num_labels"]), Padding(0, "right"), {}, 0)


def _shape(backbone: nn.Module, slot: Slot) -> ModelShape:
    return read_shape(slot.model, block_count(backbone), slot.dimensions(), slot.sizes()["head"])


def main() -> None:
    """Reads the request from the command line, prints the answer."""
    return_freed_memory()
    request = json.loads(sys.argv[1])
    raw = request["allotment"]
    allotment = Allotment(**raw | {"layers": raw["layers"] and tuple(raw["layers"])})
    try:
        answer = dry_step(request["workload"], allotment, request["steps"])
    except UserError as error:
        answer = {"mistake": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
