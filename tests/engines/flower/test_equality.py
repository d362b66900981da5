"""Local, in Ray's processes, or at three sites behind a SuperLink: the same adapters and metrics to the bit.

The long form (`make test-flower`) runs FedReFT, FedHFT and FedIT for four rounds each, and three sites, too.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedpeft[flower-sim]'")
pytest.importorskip("ray", reason="ray is not installed: pip install 'fedpeft[flower-sim]'")

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec

IS_LONG = bool(os.environ.get("FEDPEFT_FLOWER"))
only_long = pytest.mark.skipif(not IS_LONG, reason="minutes of Flower's start-up and polling: `make test-flower`")
LABELS = ("fedreft", "fedhft", "fedit") if IS_LONG else ("fedreft",)
SITES = ("site0", "site1", "site2")


def run(file, label, out, *overrides):
    rounds = 4 if IS_LONG else 2
    settings = ["workers=1", f"training.rounds={rounds}", "training.participation=0.6", "task.labels=['0', '1']"]
    experiment = load_experiment(file, [*settings, *overrides])
    start(RunSpec(experiment, label, 0, None, file.parent), out, RunCallback())
    return out


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def digest_adapters(folder):
    files = sorted(folder.glob("*/adapter/adapter_model.safetensors"))
    return {file.parent.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("label", LABELS)
def test_a_simulation_is_equal_to_the_bit(label, experiment_file, tmp_path):
    local = run(experiment_file, label, tmp_path / "local")
    simulated = run(experiment_file, label, tmp_path / "simulated", "engine=flower-sim")
    assert read_metrics(simulated) == read_metrics(local)
    assert digest_adapters(simulated / "clients") == digest_adapters(local / "clients") != {}


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A SuperLink and three sites, each a node and a worker, in processes of their own; folder, port, processes."""
    folder, port, processes = tmp_path_factory.mktemp("sites"), find_port(), {}

    def begin(name, command, home):
        environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        environment |= {"FLWR_HOME": str(home), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
        environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
        with (folder / f"{name}.log").open("ab") as log:
            processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    begin("superlink", [*link, "--disable-runtime-dependency-installation"], folder / "home")
    time.sleep(5)
    yield folder, port, begin, processes
    for process in processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@only_long
@pytest.mark.parametrize("label", LABELS)
def test_three_sites_are_equal_to_the_bit(label, experiment_file, tiny_data, tmp_path, federation):
    local = run(experiment_file, label, tmp_path / "local")
    superlink = f"127.0.0.1:{start_sites(federation, tiny_data)}"
    remote = f"flower={{superlink: '{superlink}', insecure: true, sites: 3}}"
    deployed = run(experiment_file, label, tmp_path / "deployed", "engine=flower", remote)
    assert read_metrics(deployed) == read_metrics(local)
    exported = {}
    for site in SITES:
        runs = sorted((federation[0] / site / "state").glob("*/clients"), key=lambda path: path.stat().st_mtime)
        exported |= digest_adapters(runs[-1])
    assert exported == digest_adapters(local / "clients") != {}
    assert not (deployed / "clients").exists() or not list((deployed / "clients").iterdir())


@only_long
def test_a_server_that_is_killed_goes_on_from_its_last_round(experiment_file, tiny_data, tmp_path, federation):
    """The sites stay as they are; of the round in progress nothing counts."""
    local = run(experiment_file, "fedreft", tmp_path / "local")
    port, out = start_sites(federation, tiny_data), tmp_path / "out"
    overrides = [
        "workers=1", "training.rounds=4", "training.participation=0.6", "task.labels=['0', '1']", "engine=flower",
        f"flower={{superlink: '127.0.0.1:{port}', insecure: true, sites: 3}}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "fedpeft", "run", str(experiment_file), "--method", "fedreft", "--out", str(out)]
    command += [argument for override in overrides for argument in ("--set", override)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    path = out / "tiny-fedreft-0"
    until = time.monotonic() + 300
    while not (path / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(4)  # the second round has begun
    server.kill()
    server.wait()
    before = len({line["round"] for line in read_metrics(path)})
    assert 1 <= before < 4
    resume(path, RunCallback())
    assert read_metrics(path) == read_metrics(local)


def start_sites(federation, data):
    """Starts the sites that are not there yet; returns the SuperLink's port."""
    folder, port, begin, processes = federation
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for site in SITES:
        if site in processes:
            continue
        (folder / site).mkdir()
        own = [row for row in rows if row["site"] == site]
        (folder / site / "rows.jsonl").write_text("\n".join(map(json.dumps, own)))
        (folder / site / "site.yaml").write_text(yaml.safe_dump({"id": site, "source": "rows.jsonl"}))
        begin(site, [sys.executable, "-m", "fedpeft", "site", "run", str(folder / site / "site.yaml")], folder / site)
        node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1"]
        node += ["--port", str(find_port()), "--node-config", f'worker="{folder / site / "worker.sock"}"']
        begin(f"{site}-node", node, folder / site / "home")
    return port
