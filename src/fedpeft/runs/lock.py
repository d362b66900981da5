"""One process at a time in a folder that is written to."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fedpeft.errors import UserError, printable

LOCK = ".lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Context manager that keeps other processes from writing a folder, which it makes where it is missing.

    The system lets a lock go when its process ends, however it ends, so that the file which a kill leaves behind binds
    nobody; it says who wrote it. Afterwards the file is gone, and the folder too if nothing else is in it.
    Raises UserError where another process holds the folder, naming it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another folder or its permissions"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # whoever opens the file from now on makes a new one
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # not empty
            folder.rmdir()


def _acquire(folder: Path) -> int:
    """The descriptor of the folder's lock, which is held until it is closed."""
    file = folder / LOCK
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise UserError(
                f"{folder} is in use by {printable(holder, 120)}; wait until that ends, or end it"
            ) from error
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            os.truncate(descriptor, 0)
            now = datetime.now().astimezone().isoformat(" ", "seconds")
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0)
            return descriptor
        os.close(descriptor)  # of a file that its holder removed between our two calls
