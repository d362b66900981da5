"""Kills a run with signal 9 at random moments, resumes it each time, and compares it with a run left in peace.

    python benchmarks/kill_resume.py [--kills 20]

Metrics and every exported adapter must be equal to the bit.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from tiny import tiny_model, tiny_task

METHODS = ("fedreft", "fedit", "local")


def experiment(folder: Path) -> Path:
    settings = {
        "name": "kill",
        "workers": 1,
        "model": {"name": str(tiny_model(folder / "model")), "max_length": 16},
        "task": {"source": str(tiny_task(folder / "rows.jsonl"))},
        "partition": {"kind": "natural", "column": "site"},
        "training": {"rounds": 40, "batch_size": 4, "participation": 0.6},
        "methods": {"fedreft": {"align": True, "mixing": "validation"}, "fedit": {}, "local": {}},
    }
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def command(file: Path, method: str, out: Path) -> list[str]:
    run = out / f"kill-{method}-0"
    if (run / "experiment.yaml").exists():
        return [sys.executable, "-m", "fedpeft", "resume", str(run)]
    return [sys.executable, "-m", "fedpeft", "run", str(file), "--method", method, "--out", str(out)]


def contents(run: Path) -> dict[str, bytes]:
    files = [run / "metrics.jsonl", *run.glob("clients/*/adapter/adapter_model.safetensors")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    draw = random.Random(wanted.seed)
    kills, equal, runs, moments = 0, 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = experiment(folder)
        whole, took = {}, {}
        for method in METHODS:
            began = time.perf_counter()
            subprocess.run(command(file, method, folder / "whole"), check=True, stdout=subprocess.DEVNULL)
            took[method] = time.perf_counter() - began
            whole[method] = contents(folder / "whole" / f"kill-{method}-0")
        while kills < wanted.kills:
            method, out = METHODS[runs % len(METHODS)], folder / f"broken{runs}"
            while True:
                process = subprocess.Popen(command(file, method, out), stdout=subprocess.DEVNULL)
                try:
                    process.wait(timeout=draw.uniform(0.3, 1.0) * took[method] if kills < wanted.kills else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills += 1
                    metrics = out / f"kill-{method}-0" / "timings.jsonl"
                    moments.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
                    continue
                assert process.returncode == 0, f"{method}: exit code {process.returncode}"
                break
            runs += 1
            equal += contents(out / f"kill-{method}-0") == whole[method]
    found = {"kills": kills, "after_rounds": moments, "runs": runs, "runs_equal_to_the_bit": equal}
    print(json.dumps(found))
    Path(__file__).with_name("results").joinpath("kill_resume.json").write_text(json.dumps(found, indent=1))
    return 0 if equal == runs else 1


if __name__ == "__main__":
    sys.exit(main())
