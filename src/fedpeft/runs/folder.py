"""A run on disk.

    experiment.yaml   environment.json   metrics.jsonl   timings.jsonl   checkpoint.safetensors   result.json
    clients/<id>/adapter/   (an ordinary PEFT folder each)

metrics.jsonl holds what the seed determines, timings.jsonl what the machine does: the first is equal to the bit
between a run and the same run killed and resumed.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import TEMPORARY, load_checkpoint, save_checkpoint, write_atomically
from fedpeft.runs.environment import environment

_LOGS = ("metrics.jsonl", "timings.jsonl")


class RunFolder:
    """The files of one run. Logs are cut back to the last checkpoint on resume, so no line is there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any]) -> "RunFolder":
        """A new run at `path`. Raises UserError when a run is there already or the folder cannot be written."""
        cls.require_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run's folder {path}: {error.strerror}; give another --out") from error
        write_atomically(path / "environment.json", json.dumps(environment(), indent=1).encode())
        for log in _LOGS:
            write_atomically(path / log, b"")
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write_atomically(path / "experiment.yaml", text.encode())  # last: a folder with this file is a whole run
        return cls(path)

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises UserError when a run is at `path` already."""
        if (path / "experiment.yaml").exists():
            raise UserError(f"{path} already holds a run; resume it with `fedpeft resume {path}` or give another --out")

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings. Raises UserError when `path` is not a run."""
        file = self.path / "experiment.yaml"
        if not file.is_file():
            raise UserError(f"no run at {self.path}; `fedpeft ls` lists the runs here")
        return yaml.safe_load(file.read_text(encoding="utf-8"))

    @property
    def result(self) -> dict[str, Any] | None:
        """The final result, or None while the run is not finished."""
        file = self.path / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def write_result(self, result: dict[str, Any]) -> None:
        write_atomically(self.path / "result.json", json.dumps(result, indent=1).encode())

    def append(self, log: str, records: list[dict[str, Any]]) -> None:
        """Adds lines to a log and forces them to disk. Raises UserError when the disk is full."""
        try:
            with (self.path / log).open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path / log}: {error.strerror}; the last checkpoint is intact, "
                f"free some space and `fedpeft resume {self.path}`"
            ) from error

    def checkpoint(self, tree: dict[str, Any]) -> None:
        """Saves the run's whole state together with the length of the logs."""
        lengths = {log: (self.path / log).stat().st_size for log in _LOGS}
        save_checkpoint(self.path / "checkpoint.safetensors", {**tree, "logs": lengths})

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint, with the logs cut back to it; None (and empty logs) when there is none yet."""
        for stale in self.path.glob(f".*{TEMPORARY}"):  # a kill in the middle of a write leaves one behind
            stale.unlink()
        file = self.path / "checkpoint.safetensors"
        tree = load_checkpoint(file) if file.exists() else None
        for log in _LOGS:
            os.truncate(self.path / log, tree["logs"][log] if tree else 0)
        return tree

    def drop_checkpoint(self) -> None:
        """Removes the checkpoint of a finished run."""
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)
