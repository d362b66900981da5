"""Files of a folder that may be damaged or a stranger's: no link is followed, what they hold is checked first."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedpeft.config.validation import first_error
from fedpeft.errors import UserError

_PERMISSIONS = "check the folder's permissions"


class Files:
    """The files of one folder, by name. `changed_in_place` are those that are cut and added to where they lie."""

    changed_in_place: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_path(self, name: str) -> Path:
        """Where a file or folder lies. Raises UserError for a link: what it leads to is not this folder's."""
        path = self.path / name
        with report_os_errors(f"read {path}", _PERMISSIONS):
            is_link = path.is_symlink()
            is_shared = name in self.changed_in_place and path.is_file() and path.stat().st_nlink > 1
        if is_link or is_shared:
            raise UserError(f"{path} is a link, and what is elsewhere is not changed; put the file itself there")
        return path

    def has(self, name: str) -> bool:
        """Whether there is a file of this name. Raises UserError for a link, or where the folder cannot be read."""
        path = self.get_path(name)
        with report_os_errors(f"read {path}", _PERMISSIONS):
            return path.is_file()

    def list_folder(self, name: str = "") -> list[str]:
        """The names in this folder, or in one of its folders, sorted; none where it is missing."""
        path = self.get_path(name) if name else self.path  # which a user may reach by a link of their own
        with report_os_errors(f"read {path}", _PERMISSIONS):
            return sorted(file.name for file in path.iterdir()) if path.is_dir() else []

    def read_json(self, name: str, kind: type[BaseModel], advice: str) -> dict[str, Any]:
        """The contents of a JSON file that hold what `kind` asks for, and whatever else they hold.

        Raises UserError, which ends with `advice`, where they do not.
        """
        path = self.get_path(name)
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}); {advice}") from error
        try:
            kind.model_validate(contents)
        except ValidationError as error:
            raise UserError(f"{path} is damaged ({first_error(error, kind)}); {advice}") from error
        return contents


@contextmanager
def report_os_errors(action: str, advice: str) -> Iterator[None]:
    """Context manager that raises UserError, `cannot <action>: <reason>; <advice>`, where the system refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {action}: {error.strerror or error}; {advice}") from error
