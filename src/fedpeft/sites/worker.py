"""A site's worker: a process that keeps model and data in memory and answers what its node hands over."""

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event

from fedpeft.engines.flower.frames import listen, receive_frame, send_frame
from fedpeft.errors import UserError

log = logging.getLogger(__name__)


def serve(path: Path, answer: Callable[[bytes], bytes], stopped: Event) -> None:
    """Answers one request after the other on the socket at `path`, until `stopped` is set.

    A node that goes away in the middle costs nothing but its answer. Raises UserError where the socket is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = listen(path)
    except OSError as error:
        raise UserError(f"socket: {error}; is another worker of this site running?") from error
    server.settimeout(0.5)  # how often `stopped` is looked at
    with server:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(None)
                try:
                    request = receive_frame(connection)
                    if request is not None:
                        send_frame(connection, answer(request))
                except OSError as error:
                    log.warning("a node went away: %s", error.strerror or error)
    path.unlink(missing_ok=True)


def stop_on_signals() -> Event:
    """An event that SIGINT and SIGTERM set."""
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
