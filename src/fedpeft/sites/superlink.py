"""The server's SuperLink: started with what `fedpeft site init` wrote, every site's key registered."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from pydantic import ValidationError

from fedpeft.config import read_yaml
from fedpeft.config.validation import first_error
from fedpeft.engines.flower.config import FlowerConfig, require_flower
from fedpeft.engines.flower.relay import find_last_line, make_environment, stop_process
from fedpeft.engines.flower.submit import write_connection
from fedpeft.engines.flower.transport import split_address
from fedpeft.errors import UserError, printable

_START_SECONDS = 60.0


def load_server(folder: Path) -> FlowerConfig:
    """What the server's folder says of its SuperLink. Raises UserError, one line."""
    path = folder / "flower.yaml"
    if not path.is_file():
        raise UserError(f"no {path}; `fedpeft site init` writes a server's folder")
    fields = read_yaml(path)
    try:
        return FlowerConfig.model_validate(fields["flower"] if isinstance(fields, dict) else fields)
    except (ValidationError, KeyError) as error:
        reason = first_error(error, FlowerConfig) if isinstance(error, ValidationError) else "it has no key 'flower'"
        raise UserError(f"{path}: {reason}") from error


def run_superlink(folder: Path, stopped: Event, report: Callable[[str], None]) -> int:
    """Runs the SuperLink until `stopped` is set or it ends; returns its exit code. Raises UserError.

    Its database is in the folder, so that sites stay known when it is started again.
    """
    require_flower("flower")
    config = load_server(folder)
    host, port = split_address(config.superlink, "flower.superlink")
    _require_free_port(port)
    environment = make_environment(FLWR_HOME=str(folder.resolve() / "flower"))
    with (folder / "superlink.log").open("ab") as log:
        command = make_command(folder, config, port)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait_until_it_listens(process, port, folder)
        if not config.insecure:
            _register_keys(folder, config, environment, report)
        report(f"SuperLink at {host}:{port}; log: {folder / 'superlink.log'}; ctrl-C ends it")
        while process.poll() is None and not stopped.wait(0.5):
            pass
        return process.poll() or 0
    finally:
        stop_process(process, 30)


def make_command(folder: Path, config: FlowerConfig, port: int) -> list[str]:
    """Flower's command line for the SuperLink of this folder."""
    command = [sys.executable, "-c", "from flwr.superlink.cli import flower_superlink as run; run()"]
    command += ["--host", "127.0.0.1" if config.insecure else "0.0.0.0", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation", "--database", str(folder / "superlink.db")]
    if config.insecure:
        return [*command, "--insecure"]
    files = {"--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key", "--ssl-ca-certfile": "ca.pem"}
    for flag, name in files.items():
        if not (folder / name).is_file():
            raise UserError(f"no {folder / name}; `fedpeft site init` wrote it, put it back")
        command += [flag, str(folder / name)]
    return [*command, "--enable-supernode-auth"]


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise UserError(f"port {port} is taken ({error.strerror}); is another SuperLink running?") from error


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    log = folder / "superlink.log"
    last_line = find_last_line(log.read_text(errors="replace"), 300)
    raise UserError(f"the SuperLink did not start: {last_line}; all of it: {log}")


def _register_keys(
    folder: Path, config: FlowerConfig, environment: dict[str, str], report: Callable[[str], None]
) -> None:
    """Registers every site's key; one that is known already stays known."""
    write_connection(config, Path(environment["FLWR_HOME"]))
    for key in sorted((folder / "keys").glob("*.pub")):
        command = [sys.executable, "-c", "from flwr.cli.app import app; app()", "supernode", "register", str(key)]
        ended = subprocess.run([*command, "fedpeft"], capture_output=True, text=True, env=environment, timeout=60)
        output = " ".join((ended.stdout + ended.stderr).split())
        if ended.returncode and "already" not in output.lower():
            raise UserError(f"the key of site {key.stem!r} could not be registered: {printable(output, 300)}")
    report(f"keys of {len(list((folder / 'keys').glob('*.pub')))} sites are registered")
