"""Checks of what a program passes."""

from pathlib import Path
from typing import Any

from fedpeft.errors import UserError, preview


def require_path(path: Any) -> Path:
    """The path. Raises UserError for what is none."""
    if not isinstance(path, str | Path):
        raise UserError(f"expected the path of a folder, received {preview(path)}")
    return Path(path)
