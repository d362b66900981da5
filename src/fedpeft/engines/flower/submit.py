"""Asks a SuperLink to start the ServerApp of a run, and finds out beforehand why it would not."""

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from fedpeft.engines.flower.config import FlowerConfig
from fedpeft.engines.flower.relay import QUIET
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
    home.mkdir()
    (app / "pyproject.toml").write_text(_APP)
    (home / "config.toml").write_text(_make_connection(config))
    command = [sys.executable, "-c", "from flwr.cli.app import app; app()", "run", str(app), "fedpeft"]
    command += ["--run-config", f'socket="{run_socket}"', "--format", "json"]
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home)}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_SUBMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the SuperLink at {config.superlink} did not take the run within {_SUBMIT_SECONDS} s"
        ) from None
    if ended.returncode or '"success": false' in ended.stdout:
        output = " ".join((ended.stderr + ended.stdout).split())
        raise UserError(f"the SuperLink at {config.superlink} refused the run: {printable(output, 300)}")


def _make_connection(config: FlowerConfig) -> str:
    transport = "insecure = true" if config.insecure else f'root-certificates = "{config.root_certificates}"'
    return f'[superlink]\ndefault = "fedpeft"\n[superlink.fedpeft]\naddress = "{config.superlink}"\n{transport}\n'


def require_superlink(config: FlowerConfig) -> None:
    """Raises UserError where nobody listens, or the transport is not the one that the file says.

    Flower itself would wait for ever for a SuperLink that speaks the other one.
    """
    host, _, port = config.superlink.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"flower.superlink: expected host:port, received {printable(config.superlink, 100)!r}")
    if not config.insecure and config.root_certificates is None:
        raise UserError(
            "flower.root_certificates is missing: the PEM file that `fedpeft site init` wrote; plain text, for trials "
            "on one machine, must be asked for: flower.insecure: true"
        )
    if config.root_certificates is not None and not Path(config.root_certificates).is_file():
        raise UserError(f"flower.root_certificates: no such file: {config.root_certificates}")
    check_transport(host.strip("[]"), int(port), None if config.insecure else config.root_certificates)


def check_transport(host: str, port: int, certificates: str | None) -> None:
    """Raises UserError, in one line, where no server is at the address, or not one of this transport and authority."""
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            if certificates is None:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if not connection.recv(5).startswith(b"HTTP/"):
                    raise UserError(f"the server at {where} does not speak plain text: give its root_certificates")
                return
            context = ssl.create_default_context(cafile=certificates)
            with context.wrap_socket(connection, server_hostname=host):
                return
    except ssl.SSLCertVerificationError as error:
        raise UserError(
            f"the certificate of {where} is not signed by {certificates}, or is of another name: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise UserError(
            f"the server at {where} does not speak TLS ({error.reason}); was it started insecure?"
        ) from error
    except OSError as error:
        raise UserError(
            f"no SuperLink answers at {where} ({error.strerror or error}); start it, or change flower.superlink"
        ) from error
