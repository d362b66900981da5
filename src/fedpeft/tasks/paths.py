"""What a user names as a file or folder, as a path."""

from pathlib import Path

from fedpeft.errors import UserError


def resolve_path(name: str, base: Path) -> Path:
    """The path of `name`, whether or not something is there; relative ones start at `base`, "~" is somebody's home.

    Raises UserError where the system knows that nothing can be there: a name too long, an unknown user, links in a
    circle, a folder that may not be entered.
    """
    try:
        if not name.isprintable():
            raise ValueError("it holds control characters")
        path = base / Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise UserError(f"task.source: {name[:80]!r} names nothing that can be read: {reason}; mend it") from error
    return path
