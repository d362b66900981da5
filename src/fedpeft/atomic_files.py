"""Files that are either the old ones or the new ones, whatever happens."""

import os
from contextlib import suppress
from pathlib import Path

from fedpeft.errors import UserError

TEMPORARY = ".tmp"  # ends the names of files that are not finished yet


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file beside `path`, fsync, rename, fsync of the folder. Nothing half-written is ever at `path`.

    Raises UserError (disk full, no permission); the temporary file is removed and the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # a file of its own: nothing that a link leads to is written
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is intact, "
            "free some space or choose another folder and resume"
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Removes what writers that were killed left in a folder that nobody else writes to. Raises OSError."""
    for file in folder.glob(f".*{TEMPORARY}"):
        if not file.is_dir():
            file.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
