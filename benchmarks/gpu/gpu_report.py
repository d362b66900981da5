"""Speed, memory, exactness and the tests of one GPU as JSON: what `benchmarks/gpu/run.sh` runs.

Tokens per second of federated rounds of a random LLaMA of 1 and 3 billion parameters in bfloat16, with LoRA and LoReFT,
1, 8 and 32 clients, one after the other and batched, also as a fraction of the rate at which the card multiplies
matrices (4 operations per token and parameter of the blocks' matrices; attention and logits are not counted); peak
memory; the prefix cache; a resumed run against a whole one; and the tests that need a GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from exactness import compare_prefix_cache, compare_resume
from random_llama import SIZES, make_model
from throughput import ENGINES, compare_engines, forget_peak, measure_all, measure_matrix_rate

from fedpeft.environment import describe_environment

ROOT = Path(__file__).parents[2]
GPU_TESTS = (
    "tests/runs/test_gpu.py", "tests/runs/test_devices.py", "tests/engines/test_replicas.py",
    "tests/backbones/test_quantized.py", "tests/budgets/test_measure.py", "tests/test_environment.py",
)  # fmt: skip
THROUGHPUT_FRACTION = 0.6  # of the time; the rest is for exactness and tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", default="1b,3b", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--minutes", type=float, default=8.5, help="most that all of it takes")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests that need a GPU")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_<card>.json; none on a CPU")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("this torch sees no GPU; try the script with: --device cpu --sizes tiny")
    report = Report(options.out or _name_file(options.device))
    measure(report, options.device, options.sizes.split(","), time.monotonic() + 60 * options.minutes, options.no_tests)
    print(json.dumps(report.figures, indent=1))


class Report:
    """The figures so far; each part is on disk as soon as it is known, for a machine that goes away."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.figures: dict[str, Any] = {"environment": describe_environment()}

    def add(self, name: str, figures: Any) -> None:
        self.figures[name] = figures
        print(f"{name}: {json.dumps(figures)[-300:]}", file=sys.stderr, flush=True)
        if self.file is not None:
            self.file.write_text(json.dumps(self.figures, indent=1))


def measure(report: Report, device: str, sizes: list[str], until: float, no_tests: bool) -> None:
    """Fills the report; `until` is a time of `time.monotonic`."""
    began = time.monotonic()
    rate = measure_matrix_rate(device, 8192 if device.startswith("cuda") else 256)
    report.add("bf16_matrix_tflops", round(rate / 1e12, 3))
    cells: list[dict[str, Any]] = []
    for cell in measure_all(sizes, device, rate, began + THROUGHPUT_FRACTION * (until - began)):
        cells.append(cell)
        report.add("throughput", cells)
    report.add("batched_to_local", compare_engines(cells))
    forget_peak(device)
    size = SIZES[sizes[0]]
    model = make_model(size, device)
    report.add("prefix_cache", compare_prefix_cache(model, size, device))
    report.add("resume", {engine: compare_resume(model, size, device, engine) for engine in ENGINES})
    del model
    forget_peak(device)
    if not no_tests:
        report.add("gpu_tests", run_gpu_tests(until - time.monotonic()))
    report.add("seconds", round(time.monotonic() - began, 1))


def run_gpu_tests(seconds: float) -> dict[str, Any]:
    """How many of the tests in the files that hold those for GPUs passed, failed and were skipped; what failed."""
    if find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:warnings", *GPU_TESTS],
            cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, seconds), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return {"skipped": f"not over after {seconds:.0f} s", "output": output[-500:]}
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {"exit_code": done.returncode, **counts, "failures": failures[:20]}


def _name_file(device: str) -> Path | None:
    if not device.startswith("cuda"):
        return None
    card = re.sub(r"\W+", "_", torch.cuda.get_device_name(device)).strip("_").lower()
    return ROOT / "benchmarks" / "results" / f"gpu_{card}.json"


if __name__ == "__main__":
    main()
