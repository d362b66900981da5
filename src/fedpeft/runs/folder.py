"""A run on disk.

    experiment.yaml   environment.json   metrics.jsonl   timings.jsonl   checkpoint.safetensors   result.json
    clients/<id>/adapter/   (an ordinary PEFT folder each)
    failures.log   (tracebacks, where clients failed)

metrics.jsonl holds what the seed determines, timings.jsonl what the machine does: the first is equal to the bit
between a run and the same run killed and resumed.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from fedpeft.config import read_yaml
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import TEMPORARY, load_checkpoint, save_checkpoint, write_atomically

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
        write_atomically(path / "environment.json", json.dumps(describe_environment(), indent=1).encode())
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
        """The resolved settings. Raises UserError when `path` is not a run, or its settings are damaged."""
        self.require_run()
        file = self.path / "experiment.yaml"
        helps = f"put it back, or remove {self.path} and start the run again"
        try:
            kept = read_yaml(file)
        except UserError as error:
            raise UserError(f"{error}; {helps}") from error
        if not _are_settings(kept):
            raise UserError(f"{file} does not hold the settings of one run, received {_begun(kept)}; {helps}")
        return kept

    def require_run(self) -> None:
        """Raises UserError when there is no run at `path`."""
        if not (self.path / "experiment.yaml").is_file():
            raise UserError(f"no run at {self.path}; `fedpeft ls` lists the runs here")

    @property
    def result(self) -> dict[str, Any] | None:
        """The final result, or None while the run is not finished. Raises UserError when the file is damaged."""
        file = self.path / "result.json"
        if not file.is_file():
            return None
        helps = f"remove it, and `fedpeft resume {self.path}` writes it again"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read as JSON ({error}); {helps}") from error
        if not isinstance(kept, dict) or "test" not in kept:
            raise UserError(f"{file} does not hold the result of a run, received {_begun(kept)}; {helps}")
        return kept

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
        """The last checkpoint, with the logs cut back to it; None (and empty logs) when there is none yet.

        Raises UserError, before anything is changed, where the checkpoint is damaged or a log has lost lines.
        """
        file = self.path / "checkpoint.safetensors"
        tree = load_checkpoint(file) if file.exists() else None
        lengths: dict[str, int] = tree["logs"] if tree else dict.fromkeys(_LOGS, 0)
        for log, length in lengths.items():
            self._require_log(self.path / log, length)
        for stale in self.path.glob(f".*{TEMPORARY}"):  # a kill in the middle of a write leaves one behind
            stale.unlink()
        for log, length in lengths.items():
            os.truncate(self.path / log, length)
        return tree

    def _require_log(self, log: Path, length: int) -> None:
        """Cutting back to a length makes a shorter file longer, with zeros."""
        found = f"holds {log.stat().st_size} bytes" if log.is_file() else "is missing"
        if not log.is_file() or log.stat().st_size < length:
            raise UserError(
                f"{log} {found}, the run's last checkpoint was written at {length} bytes; "
                f"put the file back, or remove {self.path} and start the run again"
            )

    def drop_checkpoint(self) -> None:
        """Removes the checkpoint of a finished run."""
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Takes back what `create` wrote where no round was completed: there is nothing to resume."""
        if (self.path / "checkpoint.safetensors").exists():
            return
        for name in ("experiment.yaml", "environment.json", *_LOGS):  # in this order: it stops being a run first
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _are_settings(kept: Any) -> bool:
    """Whether these are `RunSpec.as_dict`: an experiment file of one's own has neither key."""
    if not isinstance(kept, dict) or not isinstance(kept.get("base"), str):
        return False
    experiment = kept.get("experiment")
    methods = experiment.get("methods") if isinstance(experiment, dict) else None
    return isinstance(methods, dict) and len(methods) == 1


def _begun(kept: Any) -> str:
    """The beginning of what was found, on one line."""
    text = json.dumps(kept, default=str)
    return text if len(text) <= 60 else f"{text[:60]} ..."
