"""A few real training steps on random tokens, in a process of their own: what a configuration truly takes.

    python -m fedpeft.budgets.dry_step JSON

is what `fedpeft.budgets.measure` starts; the last line it prints is the result, or the user's mistake. It imports what a
run imports, so the libraries' share of the peak is that of a run.
"""

import json
import sys
import time
from contextlib import ExitStack
from importlib import import_module
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from fedpeft.acceleration import make_accelerations, optimise_forward_
from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import count_blocks, load_backbone
from fedpeft.budgets.shape import DEFAULT_RANK, ModelShape, read_shape
from fedpeft.engines.templates import attach_adapter
from fedpeft.environment import read_peak_mib, read_resident_mib, reset_peak_memory, return_freed_memory
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, wire_size
from fedpeft.federation.task import Classification
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding

MIB = 1024 * 1024


def dry_step(workload: dict[str, Any], resources: ClientResources, steps: int) -> dict[str, Any]:
    """Trains `steps` steps; memory in MiB as `fedpeft.budgets.measure.Measured` describes it."""
    torch.set_num_threads(1)
    libraries = read_resident_mib()
    backbone, _ = load_backbone(
        workload["backbone"],
        num_labels=workload["num_labels"],
        pooling=workload["pooling"],
        dtype=workload["dtype"],
        device=workload["device"],
    )
    _touch(backbone)
    slot = _slot(backbone, resources)
    client = _client(slot, resources, workload, steps)
    cuda = slot.parameters()[0].is_cuda
    loading = torch.cuda.max_memory_allocated() / MIB if cuda else read_peak_mib()
    loaded = torch.cuda.memory_allocated() / MIB if cuda else read_resident_mib()
    reset_peak_memory()
    ticks = [time.perf_counter()]

    def observe() -> None:
        if cuda:
            torch.cuda.synchronize()
        ticks.append(time.perf_counter())

    settings = TrainingConfig(batch_size=workload["batch_size"])
    trainer = LocalTrainer(slot, client, slot.names, 1e-4, settings, torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for acceleration in make_accelerations():
            stack.enter_context(acceleration.apply(slot, client))
        train_locally(trainer, observe=observe)
    training = torch.cuda.max_memory_allocated() / MIB if cuda else read_peak_mib()
    passed = [later - earlier for earlier, later in pairwise(ticks[1:])]
    return {
        "libraries_mib": 0.0 if cuda else libraries,
        "loading_mib": loading,
        "loaded_mib": loaded,
        "training_mib": training,
        "step_seconds": median(passed or [ticks[1] - ticks[0]]),  # the first step warms up
        "uplink_bytes": wire_size(Message("client", 1, slot.read())),
        "trained": sum(slot.count_parameters().values()),
        "shape": _shape(backbone, slot).as_dict(),
    }


def _touch(backbone: nn.Module) -> None:
    """Reads every weight: files are mapped, and a few steps would leave most of an embedding on disk."""
    for parameter in backbone.parameters():
        float(parameter.detach().sum())


def _slot(backbone: nn.Module, resources: ClientResources) -> AdaptedModel:
    rank = resources.rank or DEFAULT_RANK
    config = make_lora_config(backbone, rank, 2 * rank, resources.layers or "all", density=resources.density)
    slot = AdaptedModel(attach_adapter(backbone, config, 0))
    optimise_forward_(slot)
    return slot


def _client(slot: AdaptedModel, resources: ClientResources, workload: dict[str, Any], steps: int) -> Client:
    """A client whose rows have the full length, or one token less so that there is padding to mask: the worst case."""
    count, length = steps * workload["batch_size"], workload["max_length"]
    vocabulary = slot.model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Encoded(tuple(row[i % 2 :]), i % workload["num_labels"]) for i, row in enumerate(ids)]
    spec = ClientSpec("dry step", count, resources)
    return Client(spec, {"train": rows}, Classification(workload["num_labels"]), Padding(0, "right"), {}, 0)


def _shape(backbone: nn.Module, slot: AdaptedModel) -> ModelShape:
    return read_shape(slot.model, count_blocks(backbone), slot.get_dimensions(), slot.count_parameters()["head"])


def main() -> None:
    """Reads the request from the command line, prints the answer."""
    import_module("fedpeft.runs.runner")  # only for its share of memory: a run's libraries are in the peak
    return_freed_memory()
    request = json.loads(sys.argv[1])
    raw = request["resources"]
    resources = ClientResources(**raw | {"layers": raw["layers"] and tuple(raw["layers"])})
    try:
        answer = dry_step(request["workload"], resources, request["steps"])
    except UserError as error:
        answer = {"mistake": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
