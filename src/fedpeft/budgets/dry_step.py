"""A few real training steps on random tokens, in a process of their own: what a configuration truly takes.

    python -m fedpeft.budgets.dry_step REQUEST

is what `fedpeft.budgets.measure` starts, with a `DryStep` in JSON. The last line printed is a `Measured` in JSON, or
the user's mistake. The process imports what a run imports, so that libraries count in its peak as they do in a run.
"""

import json
import sys
import time
from contextlib import ExitStack
from importlib import import_module
from itertools import pairwise
from statistics import median

import torch
from torch import nn

from fedpeft.acceleration import make_accelerations, optimise_forward_, require_checkpointing
from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import count_blocks, load_backbone
from fedpeft.budgets.measure import ANSWER, MISTAKE, REQUEST, DryStep, Measured
from fedpeft.budgets.shape import DEFAULT_RANK, read_shape
from fedpeft.engines.templates import attach_adapter
from fedpeft.environment import read_peak_mib, read_resident_mib, reset_peak_memory, return_freed_memory
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, wire_size
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.kinds import make_task
from fedpeft.units import MIB


def take_dry_step(request: DryStep) -> Measured:
    """Loads the backbone, trains the steps asked for, and returns the figures of this process."""
    torch.set_num_threads(1)
    libraries_mib = read_resident_mib()
    workload = request.workload
    backbone, _ = load_backbone(
        workload.backbone,
        num_labels=workload.num_labels,
        pooling=workload.pooling,
        dtype=workload.dtype,
        device=workload.device,
    )
    _read_weights(backbone)
    model = _make_model(backbone, request.resources)
    shape = read_shape(model.model, count_blocks(backbone), model.get_dimensions(), model.count_parameters()["head"])
    optimise_forward_(model)
    client = _make_client(model, request)
    on_cuda = model.parameters()[0].is_cuda
    loading_mib = _read_peak(on_cuda)
    reset_peak_memory()
    times = _train(model, client, workload.batch_size, on_cuda)
    training_mib = _read_peak(on_cuda)
    durations = [later - earlier for earlier, later in pairwise(times[1:])]
    return Measured(
        libraries_mib=0.0 if on_cuda else libraries_mib,
        loading_mib=loading_mib,
        training_mib=training_mib,
        step_seconds=median(durations or [times[1] - times[0]]),  # the first step warms up
        uplink_bytes=wire_size(Message("client", 1, model.read())),
        trained=sum(model.count_parameters().values()),
        shape=shape,
    )


def _train(model: AdaptedModel, client: Client, batch_size: int, on_cuda: bool) -> list[float]:
    """Trains on all of the client's examples; returns when training began and when each step had its gradients."""
    times = [time.perf_counter()]

    def record_time() -> None:
        if on_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    training = TrainingConfig(batch_size=batch_size)
    shuffle = torch.Generator().manual_seed(0)
    trainer = LocalTrainer(model, client, model.names, 1e-4, training, shuffle, round_=1)
    accelerations = make_accelerations()
    require_checkpointing(accelerations, [client])
    with ExitStack() as stack:
        for acceleration in accelerations:
            stack.enter_context(acceleration.apply(model, client))
        train_locally(trainer, observe=record_time)
    return times


def _read_peak(on_cuda: bool) -> float:
    return torch.cuda.max_memory_allocated() / MIB if on_cuda else read_peak_mib()


def _read_weights(backbone: nn.Module) -> None:
    """Reads every weight: files are mapped, and a few steps would leave most of an embedding on disk."""
    for parameter in backbone.parameters():
        float(parameter.detach().sum())


def _make_model(backbone: nn.Module, resources: ClientResources) -> AdaptedModel:
    rank = resources.rank or DEFAULT_RANK
    config = make_lora_config(backbone, rank, 2 * rank, resources.layers or "all", density=resources.density)
    return AdaptedModel(attach_adapter(backbone, config, 0))


def _make_client(model: AdaptedModel, request: DryStep) -> Client:
    """A client whose examples have the full length, or one token less so that there is padding to mask: the most that
    a batch can take."""
    workload = request.workload
    count = request.steps * workload.batch_size
    vocabulary = model.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (count, workload.max_length), generator=generator).tolist()
    examples = [Encoded(tuple(tokens[i % 2 :]), i % workload.num_labels) for i, tokens in enumerate(ids)]
    spec = ClientSpec("dry step", count, request.resources)
    labels = [str(i) for i in range(workload.num_labels)]
    task = make_task(TaskConfig(source="random tokens"), labels, None, workload.max_length)
    return Client(spec, {"train": examples}, task, Padding(0, "right"), {}, 0)


def main() -> None:
    """Reads the request from the command line, prints the answer."""
    import_module("fedpeft.runs.runner")  # only for its memory: a run's libraries are in the peak
    return_freed_memory()
    try:
        answer = ANSWER.dump_json(take_dry_step(REQUEST.validate_json(sys.argv[1]))).decode()
    except UserError as error:
        answer = json.dumps({MISTAKE: str(error)})
    print(answer)


if __name__ == "__main__":
    main()
