"""Seconds from the start of the process to the first training step of a small experiment, and where they go.

    python benchmarks/engines/startup.py [--repeats 5] [--imports 15]

`fedpeft run` on the file that `fedpeft init` writes (MiniLM, tweets by source, 64 rows a client), each in a fresh
process with one torch thread per worker. Model loading is told apart: `model` is tokenizer and weights read, with what
transformers imports for this model's class. `rest` is reading the experiment and everything between the others. The
first step begins with its forward; told too are how long it takes beside the other worker's, and the processor's
seconds until it (`cpu`), which a busy machine changes little. Writes results/engines_startup.json. `--imports` shows
instead which modules take longest to import (`python -X importtime`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import cell, keep, machine, parser, spread

SCRIPT = Path(__file__).with_name("first_step.py")
FILE, METHOD = "experiment.yaml", "fedreft"


def once(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One process to its end; its last line holds the seconds."""
    command = [sys.executable, *options, str(SCRIPT), repr(time.time()), "run", FILE, "--method", METHOD]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{done.stderr}"[-4000:])
    for run in folder.glob("runs/*"):  # or the next one would find the place taken
        run.rename(folder / f"{run.name}-{time.time_ns()}")
    return done


def seconds(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(once(folder).stdout.splitlines()[-1])
    return found | {"to_first_step_without_model": found["to_first_step"] - found["model"]}


def slowest(folder: Path, count: int) -> list[str]:
    """Lines of -X importtime (own microseconds, with what they import, module), the largest sums first."""
    lines = [line for line in once(folder, "-X", "importtime").stderr.splitlines() if line.startswith("import time:")]
    return sorted(lines[1:], key=lambda line: -int(line.split("|")[1]))[:count]


def main() -> None:
    asked = parser(__doc__, 5)
    asked.add_argument("--imports", type=int, help="how many modules to show")
    wanted = asked.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "fedpeft", "init", FILE], cwd=folder, check=True, capture_output=True)
        if wanted.imports:
            print("\n".join(slowest(folder, wanted.imports)))
            return
        runs = [seconds(folder) for _ in range(1 + wanted.repeats)][1:]  # the first fills the system's file cache
    found = {part: spread([run[part] for run in runs]) for part in runs[0]}
    for part, own in found.items():
        print(f"{part:>28}  {cell(own)} s")
    if not wanted.dry:
        keep("startup", before, {"settings": vars(wanted), "seconds": found})


if __name__ == "__main__":
    main()
