"""Tokens per second of federated rounds, alone and batched, as a fraction of the card's own bf16 matrix rate."""

import gc
import time
from collections.abc import Iterator
from itertools import product
from statistics import mean
from typing import Any

import torch
from random_llama import METHODS, SIZES, count_products, make_federation, make_method, make_model
from torch import nn

from fedpeft.environment import read_peak_mib, reset_peak_memory
from fedpeft.federation.federation import Federation
from fedpeft.units import MIB

CLIENTS = (1, 8, 32)
ENGINES = ("local", "batched")  # one client after the other; up to 8 in one pass


def synchronise(device: str) -> None:
    """Waits for what the device still does."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measure_matrix_rate(device: str, side: int) -> float:
    """Floating-point operations per second of products of two bfloat16 matrices (side, side), the best of five."""
    first, second = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    rates = []
    for _ in range(6):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(10):
            first @ second
        synchronise(device)
        rates.append(10 * 2 * side**3 / (time.perf_counter() - began))
    return max(rates[1:])


def forget_peak(device: str) -> None:
    """Begins a measurement of peak memory."""
    gc.collect()
    reset_peak_memory()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> float:
    """Peak MiB since `forget_peak`: of the GPU's tensors; on a CPU of the whole process."""
    return torch.cuda.max_memory_allocated(device) / MIB if device.startswith("cuda") else read_peak_mib()


def run_round(federation: Federation, device: str) -> tuple[float, float]:
    """Seconds of one round and its clients' mean loss. Raises RuntimeError where a client failed."""
    synchronise(device)
    began = time.perf_counter()
    record = federation.step()
    synchronise(device)
    seconds = time.perf_counter() - began
    if record.quarantined:
        raise RuntimeError(f"clients failed: {record.quarantined}")
    return seconds, mean(float(scalars["loss"]) for scalars in record.scalars.values())


def measure_cell(
    model: nn.Module, size: str, adapter: str, clients: int, engine: str, device: str, rate: float
) -> dict[str, Any]:
    """Figures of one setting; the first round warms up, the second is measured."""
    forget_peak(device)
    federation, tokens = make_federation(model, SIZES[size], make_method(adapter), clients, engine)
    try:
        run_round(federation, device)
        seconds, _ = run_round(federation, device)
    finally:
        federation.engine.close()
    per_second = tokens / seconds
    return {
        "tokens": tokens,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(per_second, 1),
        "tokens_per_second_and_client": round(per_second / clients, 1),
        "fraction_of_matrix_rate": round(per_second * 4 * count_products(model) / rate, 4),
        "peak_mib": round(read_peak(device), 1),
    }


def measure_all(sizes: list[str], device: str, rate: float, until: float) -> Iterator[dict[str, Any]]:
    """Yields the figures of every size, adapter, number of clients and engine, one by one.

    A setting that does not fit the memory, or comes when the time (of `time.monotonic`) is over, says so instead.
    """
    for size in sizes:
        if time.monotonic() > until:
            yield {"size": size, "skipped": "no time was left"}
            continue
        model = make_model(SIZES[size], device)
        for adapter, clients, engine in product(METHODS, CLIENTS, ENGINES):
            cell: dict[str, Any] = {"size": size, "adapter": adapter, "clients": clients, "engine": engine}
            if time.monotonic() > until:
                yield cell | {"skipped": "no time was left"}
                continue
            try:
                yield cell | measure_cell(model, size, adapter, clients, engine, device, rate)
            except torch.OutOfMemoryError:
                yield cell | {"skipped": "the memory does not hold it"}
        del model
        forget_peak(device)


def compare_engines(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By size, adapter and clients: how many times the tokens per second of the local engine the batched one has."""
    rates: dict[tuple[str, str, int], dict[str, float]] = {}
    for cell in cells:
        if "tokens_per_second" in cell:
            setting = cell["size"], cell["adapter"], cell["clients"]
            rates.setdefault(setting, {})[cell["engine"]] = cell["tokens_per_second"]
    return [
        {"size": size, "adapter": adapter, "clients": clients, "ratio": round(own["batched"] / own["local"], 3)}
        for (size, adapter, clients), own in rates.items()
        if own.keys() == {*ENGINES}
    ]
