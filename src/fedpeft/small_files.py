"""Reads files that are small when they are honest, and that a stranger may have written."""

from pathlib import Path

from fedpeft.errors import UserError


def read_small_file(file: Path, max_bytes: int = 4 << 20, advice: str = "no such file of ours is as large") -> bytes:
    """The contents of a file of at most so many bytes, of which no more are read.

    Raises `UserError`, for a larger one with `advice` at its end, and where it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise UserError(f"{file} holds more than {max_bytes >> 20} MiB; {advice}")
    return content
