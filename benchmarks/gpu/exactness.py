"""The prefix cache and resume on the device: what the cache saves, and whether a resumed run is the same."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from random_llama import Size, list_upper_blocks, make_federation, make_method
from throughput import run_round
from torch import nn

from fedpeft.acceleration import make_accelerations
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Tensors
from fedpeft.federation.state_tree import flatten

CLIENTS = 4


def compare_prefix_cache(model: nn.Module, size: Size, device: str) -> dict[str, Any]:
    """Seconds of a round of LoRA in the upper half of the blocks without the cache and with it, once it is filled."""
    method = make_method("lora", list_upper_blocks(model))
    seconds, losses, cache = {}, {}, PrefixCache(4096)
    for name, requested in (("without", ()), ("with", (cache,))):
        accelerations = (*make_accelerations(), *requested)
        federation, _ = make_federation(model, size, method, CLIENTS, accelerations=accelerations)
        run_round(federation, device)
        seconds[name], losses[name] = run_round(federation, device)
        federation.engine.close()
    return {
        "seconds_without": round(seconds["without"], 4),
        "seconds_with": round(seconds["with"], 4),
        "speed_up": round(seconds["without"] / seconds["with"], 3),
        "cache": str(cache.stats),
        "loss_without": losses["without"],
        "loss_with": losses["with"],
    }


def compare_resume(model: nn.Module, size: Size, device: str, engine: str) -> dict[str, Any]:
    """Two rounds, against one round, a checkpoint, and the second from the checkpoint in a fresh engine."""
    method = make_method("lora")
    whole, _ = make_federation(model, size, method, CLIENTS, engine)
    run_round(whole, device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.safetensors"
        save_checkpoint(file, {"state": whole.state, "clients": whole.engine.save(1)})
        saved = load_checkpoint(file)
    run_round(whole, device)
    resumed, _ = make_federation(model, size, method, CLIENTS, engine)
    resumed.state, resumed.round = type(resumed.state)(**saved["state"]), 1
    resumed.engine.restore(1, saved["clients"])
    run_round(resumed, device)
    expected, received = _get_tensors(whole), _get_tensors(resumed)
    for federation in (whole, resumed):
        federation.engine.close()
    return {
        "equal_to_the_bit": all(torch.equal(tensor, received[name]) for name, tensor in expected.items()),
        "largest_difference": _measure_difference(expected, received),
        "on_the_cpu": all(tensor.device.type == "cpu" for tensor in received.values()),
    }


def _get_tensors(federation: Federation) -> Tensors:
    """The server's and the clients' tensors, by their place."""
    return flatten([federation.state, federation.engine.save(federation.round)])[1]


def _measure_difference(expected: Tensors, received: Tensors) -> float:
    """The largest relative difference of two tensors of one name, in the Euclidean norm."""
    return max(
        float((tensor - received[name]).double().norm() / tensor.double().norm().clamp(min=1e-6))
        for name, tensor in expected.items()
    )
