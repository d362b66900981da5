"""A federation over loopback in processes of its own: a SuperLink, and at each site a worker and a node.

TLS and a key for each site, as `fedpeft site init` writes them. Every process leads a group of its own, so that a kill
takes what Flower started for it, too.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml

SITES = ("site0", "site1", "site2")
FEDPEFT = (sys.executable, "-m", "fedpeft")
HELPERS = Path(__file__).parent
POLL_SECONDS = "0.1"  # between looks of Flower's SuperExec, whose default is 1


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(is_true, seconds, what):
    """Waits for a condition; fails with `what` where it does not come."""
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until, f"after {seconds} s: {what}"
        time.sleep(0.1)


class RealSites:
    """The processes by name: `superlink`, and `<site>-worker` and `<site>-node` of every site."""

    def __init__(self, folder, data, sites=SITES):
        self.folder, self.sites, self.port, self.processes = folder / "fed", sites, find_port(), {}
        command = ["site", "init", str(self.folder), "--sites", ",".join(sites), "--address", f"127.0.0.1:{self.port}"]
        subprocess.run([*FEDPEFT, *command], check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        for site in sites:
            own = [row for row in rows if row["site"] == site]
            (self.folder / site / "data.jsonl").write_text("\n".join(map(json.dumps, own)))

    @property
    def overrides(self):
        """What the experiment says of where the sites are, as `--set` takes it."""
        fields = yaml.safe_load((self.folder / "server" / "flower.yaml").read_text())
        return ["engine=flower", f"flower={json.dumps(fields['flower'])}"]

    def begin(self, name, command, **environment):
        """Starts a process under a name; its output is appended to `<name>.out`."""
        environment = {**os.environ, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": POLL_SECONDS, **environment}
        with self.get_log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return self.processes[name]

    def get_log(self, name):
        return self.folder / f"{name}.out"

    def read_log(self, name):
        log = self.get_log(name)
        return log.read_text(errors="replace") if log.exists() else ""

    def start_superlink(self):
        announcements = self.read_log("superlink").count("ctrl-C ends it")
        process = self.begin("superlink", [*FEDPEFT, "superlink", str(self.folder / "server")])

        def listens():
            assert process.poll() is None, self.read_log("superlink")
            return self.read_log("superlink").count("ctrl-C ends it") > announcements

        wait_until(listens, 90, "the SuperLink does not listen")

    def start_worker(self, site, fault="", client_round=0, **environment):
        """A site's worker; with a fault it is `faulty_worker`, which misbehaves in one round."""
        arguments = ["site", "run", str(self.folder / site / "site.yaml")]
        if fault:
            program = [str(HELPERS / "faulty_worker.py"), *arguments[2:], fault, str(client_round)]
            return self.begin(
                f"{site}-worker", [sys.executable, *program], PYTHONPATH=self.extend_path(), **environment
            )
        return self.begin(f"{site}-worker", [*FEDPEFT, *arguments], **environment)

    def extend_path(self, *folders):
        """PYTHONPATH with the helpers, and other folders before all."""
        parts = [*map(str, folders), str(HELPERS.parent), os.environ.get("PYTHONPATH", "")]
        return os.pathsep.join(filter(None, parts))

    def start_node(self, site, **environment):
        return self.begin(
            f"{site}-node", [*FEDPEFT, "site", "node", str(self.folder / site / "site.yaml")], **environment
        )

    def start_all(self):
        """Starts whatever is not running."""
        if not self.is_running("superlink"):
            self.start_superlink()
        for site in self.sites:
            if not self.is_running(f"{site}-worker"):
                self.start_worker(site)
            if not self.is_running(f"{site}-node"):
                self.start_node(site)

    def is_running(self, name):
        return name in self.processes and self.processes[name].poll() is None

    def kill(self, *names):
        """kill -9 of processes and of what they started."""
        for name in names:
            process = self.processes.pop(name, None)
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self):
        """Ends all processes, nodes first and politely, so that they sign off."""
        nodes = [name for name in self.processes if name.endswith("-node")]
        for name in nodes:
            self.processes[name].terminate()
        for name in nodes:
            with suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(15)
        self.kill(*list(self.processes))
