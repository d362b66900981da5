"""The batched engine against the local one where it should pay on a processor: batches of one and two examples.

    python benchmarks/engines/small_batches.py [--repeats 3] [--clients 8] [--at-once 4]

The demo's experiment, FedIT (LoRA in every block) and FedReFT (LoReFT), eight examples a client, without evaluation.
Both engines share one backbone, have as many workers as there are cores, and their rounds take turns in one process;
the first is not counted. Writes results/engines_small_batches.json, row by row: seconds of each round by the clock and
of processors, all threads together, and those of the local engine over the batched one's, round by round. On a machine
that does other work too, the processors' are what to read.
"""

import time
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

from report import cell, keep, machine, parser, spread

from fedpeft.config import load_experiment
from fedpeft.runs.build import assemble, load_model
from fedpeft.tasks.load import load_task

FILE = Path(str(files("fedpeft").joinpath("experiment.yaml")))
ENGINES, METHODS, BATCHES = ("local", "batched"), ("fedit", "fedreft"), (1, 2)
EXAMPLES = 8  # of each client


def measure(method: str, batch_size: int, clients: int, at_once: int, repeats: int) -> dict[str, Any]:
    """Seconds of each engine's rounds after its first, and how many times as much the local engine's took."""
    sizes = [f"partition.clients={clients}", f"partition.max_train={EXAMPLES}", f"training.batch_size={batch_size}"]
    experiment = load_experiment(FILE, ["partition.kind=iid", f"max_clients={at_once}", *sizes])
    data = load_task(experiment.task, experiment.partition, experiment.seed, Path())
    backbone = load_model(experiment.model, experiment.task, len(data.labels), experiment.seed)
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    cpu: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    with ExitStack() as stack:
        contexts = {}
        for engine in ENGINES:
            changed = experiment.model_copy(update={"engine": engine})
            contexts[engine] = assemble(changed, experiment.build_method(method), experiment.seed, data, backbone)
            stack.callback(contexts[engine].engine.close)
        for repeat in range(1 + repeats):
            for engine in ENGINES if repeat % 2 else ENGINES[::-1]:
                start, cpu_start = time.perf_counter(), time.process_time()
                contexts[engine].federation.step()
                if repeat:
                    seconds[engine].append(time.perf_counter() - start)
                    cpu[engine].append(time.process_time() - cpu_start)
    return {
        "method": method,
        "batch_size": batch_size,
        "round_seconds": seconds,
        "round_cpu_seconds": cpu,
        "local_over_batched": compare(seconds),
        "local_over_batched_cpu": compare(cpu),
    }


def compare(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The local engine's over the batched one's, round by round: median, least and most."""
    return spread([local / batched for local, batched in zip(seconds["local"], seconds["batched"], strict=True)])


def main() -> None:
    options = parser(__doc__, 3)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--at-once", type=int, default=4, help="clients in one pass of the batched engine")
    given = options.parse_args()
    before, rows = machine(), []
    for method in METHODS:
        for batch_size in BATCHES:
            rows.append(measure(method, batch_size, given.clients, given.at_once, given.repeats))
            clock, cpu = cell(rows[-1]["local_over_batched"]), cell(rows[-1]["local_over_batched_cpu"])
            print(f"{method}, batches of {batch_size}: local over batched {clock}, processors {cpu}", flush=True)
            if not given.dry:
                found = {"clients": given.clients, "at_once": given.at_once, "examples": EXAMPLES, "rows": rows}
                keep("small_batches", before, found)


if __name__ == "__main__":
    main()
