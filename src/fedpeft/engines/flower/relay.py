"""The run's half of the relay: requests to nodes through Flower's Grid, and their answers as they come."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft.engines.flower.frames import listen, receive_frame, send_frame
from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.errors import UserError, printable

POLL_SECONDS = 0.1  # between looks at what has come; Flower's own Grid waits 3
START_SECONDS, END_SECONDS = 120.0, 10.0
TIME_TO_LIVE = 30 * 24 * 3600.0  # of a message: deadlines are the run's affair
MOST_PUSHED = 64  # messages in one request to the relay
# Nobody is told of a run, and nothing is looked up or installed for it.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Answer:
    """What came back from a node: a header and parts, or the reason why there is none."""

    header: dict[str, Any]
    parts: list[bytes]
    failure: str | None = None


class Relay:
    """A connection to a ServerApp that lends its Grid. `start` makes Flower start it, given the socket's path.

    Raises UserError where none connects.
    """

    def __init__(self, start: Callable[[Path], "subprocess.Popen[bytes] | None"]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fedpeft-"))  # 0700, and short: a socket's path is limited
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        path = self._folder / "run.sock"
        try:
            with listen(path) as server:
                self._process = start(path)
                self._connection = self._accept(server)
        except BaseException:
            self.close()
            raise

    def _accept(self, server: socket.socket) -> socket.socket:
        server.settimeout(0.5)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                return server.accept()[0]
            except TimeoutError:
                if self._process is not None and self._process.poll() is not None:
                    raise UserError(f"Flower ended at its start ({self._read_log()})") from None
        raise UserError(f"Flower started no ServerApp within {START_SECONDS:.0f} s ({self._read_log()})")

    def _read_log(self) -> str:
        """The last line that Flower printed, where its process is ours."""
        log = self._folder / "flower.log"
        return find_last_line(log.read_text(errors="replace") if log.exists() else "", 200)

    def list_nodes(self) -> list[int]:
        """The nodes that are connected now, sorted."""
        return sorted(int(node) for node in self._call({"ask": "nodes"})[0]["nodes"])

    def wait_for_nodes(self, count: int) -> list[int]:
        """The nodes, sorted, once so many are connected. Raises UserError where they do not come."""
        until = time.monotonic() + START_SECONDS
        while len(nodes := self.list_nodes()) < count:
            if time.monotonic() > until:
                raise UserError(f"Flower has {len(nodes)} of {count} nodes after {START_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        return nodes

    def ask(self, requests: Mapping[int, bytes], seconds: float | None = None) -> Iterator[tuple[int, Answer]]:
        """One request a node; yields what comes back, as it comes, until all have answered or the time is over."""
        until = None if seconds is None else time.monotonic() + seconds
        nodes = list(requests)
        waiting: dict[str, int] = {}
        for start in range(0, len(nodes), MOST_PUSHED):
            some = nodes[start : start + MOST_PUSHED]
            header, _ = self._call(
                {"ask": "push", "nodes": [str(node) for node in some], "ttl": TIME_TO_LIVE},
                [requests[node] for node in some],
            )
            for node, message in zip(some, header["ids"], strict=True):
                if message:
                    waiting[message] = node
                else:
                    yield node, Answer({}, [], "Flower took no message for its node: it is gone")
        while waiting and (until is None or time.monotonic() < until):
            came = list(self._pull(waiting))
            yield from came
            if not came:
                time.sleep(POLL_SECONDS)

    def _pull(self, waiting: dict[str, int]) -> Iterator[tuple[int, Answer]]:
        header, parts = self._call({"ask": "pull", "ids": list(waiting)})
        for message, part in zip(header["answered"], parts, strict=True):
            if message in waiting:
                yield waiting.pop(message), read_answer(part)
        for message, reason in header["failures"].items():
            if message in waiting:
                yield waiting.pop(message), Answer({}, [], printable(reason, 300))

    def _call(self, header: dict[str, Any], parts: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        assert self._connection is not None
        try:
            send_frame(self._connection, pack(header, parts))
            frame = receive_frame(self._connection)
        except OSError as error:
            raise UserError(f"the connection to Flower is lost: {error.strerror or error}") from error
        if frame is None:
            raise UserError(f"Flower's ServerApp has ended ({self._read_log()}); `fedpeft resume` goes on")
        answer, answer_parts = unpack(frame)
        if "error" in answer:
            raise UserError(f"Flower: {printable(str(answer['error']), 300)}")
        return answer, answer_parts

    def close(self) -> None:
        """Lets the ServerApp end, and with it what was started here."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)  # it ends by itself where it can
            stop_process(self._process)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


def read_answer(data: bytes) -> Answer:
    """A node's bytes as an answer; what is none of ours, or says that it failed, is a failure."""
    try:
        header, parts = unpack(data)
    except ValueError as error:
        return Answer({}, [], f"its answer cannot be read: {error}")
    failure = header.get("error")
    return Answer(header, parts, None if failure is None else printable(str(failure), 300))


def start_process(command: Sequence[str], folder: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """A child process whose output goes to `folder`'s flower.log."""
    with (folder / "flower.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=make_environment(**environment))


def make_environment(**environment: str) -> dict[str, str]:
    """This process's environment for one of Flower's: quiet, and with the programs beside this Python on its path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, **QUIET, "PATH": path, **environment}


def stop_process(process: "subprocess.Popen[bytes]", seconds: float = END_SECONDS) -> None:
    """Asks a child process to end, and makes it where it has not done so in time."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_last_line(log: str, most: int) -> str:
    """The last line with words of what a process printed, printable and at most so long."""
    lines = [line.strip() for line in log.split("\n") if line.strip()]
    return printable(lines[-1], most) if lines else "it printed nothing"
