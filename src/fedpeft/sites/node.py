"""A site's node: Flower's SuperNode, started with the site's key, watched, and started again when it ends.

Flower refuses a node whose predecessor died until the SuperLink has missed its heartbeats, for up to a minute: so a
node that ends is started again after a while, and the reason is said once.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

from fedpeft.engines.flower.config import require_flower
from fedpeft.engines.flower.relay import find_last_line, make_environment, stop_process
from fedpeft.engines.flower.transport import check_transport, require_certificates, split_address
from fedpeft.errors import UserError
from fedpeft.sites.config import SiteConfig

RETRY_SECONDS = 5.0
# What Flower prints, and what it means.
_REFUSALS = {
    "activation failed": "the SuperLink does not let it in: its key is not registered there "
    "(server/keys), or a node with this key is still connected, or died within the last minute",
    "registration is disabled": "the SuperLink wants a key: node_key in the site's file",
    "could not be activated": "a node with this key is still connected, or died within the last minute",
}


def require_node(site: SiteConfig) -> None:
    """Raises UserError, in one line, where the site's file does not say how to reach the server, or it cannot be."""
    require_flower("flower")
    if site.superlink is None:
        raise UserError("superlink is missing in the site's file: host:port of the server")
    host, port = split_address(site.superlink, "superlink")
    require_certificates(site.root_certificates, site.insecure)
    if site.node_key is not None and not os.path.isfile(site.node_key):
        raise UserError(f"node_key: no such file: {site.node_key}")
    if site.root_certificates is not None and site.node_key is None:
        raise UserError("node_key is missing in the site's file: the key that `fedpeft site init` made for this site")
    check_transport(host, port, None if site.insecure else site.root_certificates)


def make_command(site: SiteConfig, port: int) -> list[str]:
    """Flower's command line for this site's node; `port` is one on this machine that its own processes use."""
    command = [sys.executable, "-c", "from flwr.supernode.cli import flower_supernode as run; run()"]
    command += ["--superlink", str(site.superlink), "--port", str(port)]
    command += ["--node-config", f'worker="{site.socket}"']
    command += ["--insecure"] if site.insecure else ["--root-certificates", str(site.root_certificates)]
    return command if site.node_key is None else [*command, "--auth-supernode-private-key", site.node_key]


def run_node(site: SiteConfig, stopped: Event, report: Callable[[str], None]) -> None:
    """Keeps the site's node running until `stopped` is set. Raises UserError where it cannot begin at all."""
    require_node(site)
    folder = Path(site.folder)
    folder.mkdir(parents=True, exist_ok=True)
    environment = make_environment(FLWR_HOME=str(folder / "flower"))
    said = ""
    while not stopped.is_set():
        with (folder / "node.log").open("wb") as log:
            process = subprocess.Popen(make_command(site, _find_port()), stdout=log, stderr=log, env=environment)
        while process.poll() is None and not stopped.wait(0.5):
            pass
        if process.poll() is None:
            stop_process(process)
            return
        reason = explain_end((folder / "node.log").read_text(errors="replace"))
        if reason != said:
            report(f"the node ended: {reason}; it is started again every {RETRY_SECONDS:.0f} s")
            said = reason
        stopped.wait(RETRY_SECONDS)


def explain_end(log: str) -> str:
    """Why a node ended, from what it printed, in one line."""
    lowered = log.lower()
    for words, meaning in _REFUSALS.items():
        if words in lowered:
            return meaning
    return find_last_line(log, 300)


def _find_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
