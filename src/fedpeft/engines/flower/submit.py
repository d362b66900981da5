"""Asks a SuperLink to start the ServerApp of a run, and finds out beforehand why it would not."""

import subprocess
import sys
from pathlib import Path

from fedpeft.engines.flower.config import FlowerConfig
from fedpeft.engines.flower.relay import make_environment
from fedpeft.engines.flower.transport import check_transport, require_certificates, split_address
from fedpeft.errors import UserError, printable

_SUBMIT_SECONDS = 60
# The app that Flower copies is these lines: what they name is in the installed package.
_APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedpeft-run"
version = "1.0.0"
description = "A federation of fedpeft"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedpeft"

[tool.flwr.app.components]
serverapp = "fedpeft.engines.flower.server_app:app"
clientapp = "fedpeft.engines.flower.client_app:app"

[tool.flwr.app.config]
socket = ""
"""


def submit(config: FlowerConfig, run_socket: Path) -> None:
    """Submits the run whose process listens at `run_socket`. Raises UserError in one line where it is refused."""
    require_superlink(config)
    folder = run_socket.parent
    app, home = folder / "app", folder / "home"
    app.mkdir()
    (app / "pyproject.toml").write_text(_APP)
    write_connection(config, home)
    command = [sys.executable, "-c", "from flwr.cli.app import app; app()", "run", str(app), "fedpeft"]
    command += ["--run-config", f'socket="{run_socket}"', "--format", "json"]
    environment = make_environment(FLWR_HOME=str(home))
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_SUBMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the SuperLink at {config.superlink} did not take the run within {_SUBMIT_SECONDS} s"
        ) from None
    if ended.returncode or '"success": false' in ended.stdout:
        output = " ".join((ended.stderr + ended.stdout).split())
        raise UserError(f"the SuperLink at {config.superlink} refused the run: {printable(output, 300)}")


def write_connection(config: FlowerConfig, home: Path) -> None:
    """Flower's own configuration with one connection, `fedpeft`, in its home folder."""
    transport = "insecure = true" if config.insecure else f'root-certificates = "{config.root_certificates}"'
    text = f'[superlink]\ndefault = "fedpeft"\n[superlink.fedpeft]\naddress = "{config.superlink}"\n{transport}\n'
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(text)


def require_superlink(config: FlowerConfig) -> None:
    """Raises UserError where nobody listens, or the transport is not the one that the file says.

    Flower itself would wait for ever for a SuperLink that speaks the other one.
    """
    host, port = split_address(config.superlink, "flower.superlink")
    require_certificates(config.root_certificates, config.insecure, "flower.")
    check_transport(host, port, None if config.insecure else config.root_certificates)
