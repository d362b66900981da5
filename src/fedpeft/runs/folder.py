"""A run on disk.

    experiment.yaml   environment.json   fingerprint.json   metrics.jsonl   timings.jsonl   checkpoint.safetensors
    result.json   clients/<id>/adapter/   (an ordinary PEFT folder each)
    failures.log   (tracebacks, where clients failed)

metrics.jsonl holds what the seed determines, timings.jsonl what the machine does: the first is equal to the bit
between a run and the same run killed and resumed. A folder may be damaged or a stranger's: every file is reached
through `get_path`, which follows no link, and what it holds is checked before it is used.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedpeft.atomic_files import remove_unfinished, write_atomically
from fedpeft.config.validation import first_error
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
from fedpeft.runs.files import report_os_errors
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.run_files import LOGS, RunFiles
from fedpeft.runs.stored_checkpoint import RunCheckpoint

CHECKPOINT = "checkpoint.safetensors"


class RunFolder(RunFiles):
    """The files of one run. Logs are cut back to the last checkpoint on resume, so no line is there twice."""

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any], fingerprint: Fingerprint) -> "RunFolder":
        """A new run at `path`. Raises UserError when a run is there already or the folder cannot be written."""
        folder = cls(path)
        folder.require_free()
        with report_os_errors(f"create the run's folder {path}", "give another --out"):
            path.mkdir(parents=True, exist_ok=True)
        folder.require_no_links()
        settings = json.loads(json.dumps(settings))  # a value that is there twice would become an alias in YAML
        contents = {
            "environment.json": json.dumps(describe_environment(), indent=1),
            "fingerprint.json": fingerprint.model_dump_json(indent=1),
            **dict.fromkeys(LOGS, ""),
            # last: a folder with this file is a whole run
            "experiment.yaml": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        }
        try:
            for name, text in contents.items():
                write_atomically(folder.get_path(name), text.encode())
        except UserError:
            folder.discard_if_empty()
            raise
        return folder

    def require_free(self) -> None:
        """Raises UserError when a run is here already."""
        if self.has("experiment.yaml"):
            path = self.path
            raise UserError(f"{path} already holds a run; resume it with `fedpeft resume {path}` or give another --out")

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What the run saw; None in a run of an earlier version. Raises UserError when the file is damaged."""
        if not self.has("fingerprint.json"):
            return None
        advice = f"put it back, or remove {self.path} and start the run again"
        return Fingerprint.model_validate(self.read_json("fingerprint.json", Fingerprint, advice))

    def require_fingerprint(self, now: Fingerprint) -> None:
        """Raises UserError where the data, the model or the tokenizer are not what the run saw."""
        before = self.fingerprint
        difference = before.find_difference(now) if before else ""
        if difference:
            raise UserError(
                f"{self.path} is a run on other data or another model: {difference}; put back what the run saw, "
                "or give another --out, or remove that folder"
            )

    def write_result(self, result: dict[str, Any]) -> None:
        write_atomically(self.get_path("result.json"), json.dumps(result, indent=1).encode())

    def append(self, log: str, records: list[dict[str, Any]]) -> None:
        """Adds lines to a log and forces them to disk. Raises UserError when the disk is full."""
        path = self.get_path(log)
        advice = f"the last checkpoint is intact, free some space and `fedpeft resume {self.path}`"
        with report_os_errors(f"write {path}", advice), path.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def save_checkpoint(self, tree: dict[str, Any]) -> None:
        """Saves the run's whole state together with the length of the logs."""
        with report_os_errors(f"read the logs in {self.path}", f"`fedpeft resume {self.path}` goes on"):
            lengths = {log: self.get_path(log).stat().st_size for log in LOGS}
        save_checkpoint(self.get_path(CHECKPOINT), {**tree, "logs": lengths})

    def load_checkpoint(self) -> RunCheckpoint | None:
        """The last checkpoint, None when there is none yet. Raises UserError when it is damaged."""
        if not self.has(CHECKPOINT):
            return None
        try:
            return RunCheckpoint.model_validate(load_checkpoint(self.get_path(CHECKPOINT)))
        except ValidationError as error:
            raise self.make_checkpoint_error(first_error(error, RunCheckpoint)) from error

    def make_checkpoint_error(self, problem: str) -> UserError:
        """The error for a checkpoint that this run cannot go on from."""
        return UserError(
            f"{self.path / CHECKPOINT} is no checkpoint of this run: {problem}; put the run's own back, or remove "
            f"{self.path} and start the run again"
        )

    def cut_logs(self, checkpoint: RunCheckpoint | None) -> None:
        """Cuts the logs back to a checkpoint, to nothing without one, and removes what a kill left half-written.

        Raises UserError, before anything is changed, where a log has lost lines.
        """
        lengths = checkpoint.logs.model_dump(by_alias=True) if checkpoint else dict.fromkeys(LOGS, 0)
        for log, length in lengths.items():
            self._require_log(log, length)
        with report_os_errors(f"write to {self.path}", "free some space or check its permissions, and resume"):
            remove_unfinished(self.path)
            for log, length in lengths.items():
                os.truncate(self.get_path(log), length)

    def _require_log(self, log: str, length: int) -> None:
        """Cutting back to a length makes a shorter file longer, with zeros."""
        path, has_log = self.get_path(log), self.has(log)
        size = path.stat().st_size if has_log else 0
        if not has_log or size < length:
            raise UserError(
                f"{path} {f'holds {size} bytes' if has_log else 'is missing'}, the run's last checkpoint was written "
                f"at {length} bytes; put the file back, or remove {self.path} and start the run again"
            )

    def drop_checkpoint(self) -> None:
        """Removes the checkpoint of a finished run."""
        with report_os_errors(f"remove {self.path / CHECKPOINT}", "remove it by hand: the run is finished"):
            self.get_path(CHECKPOINT).unlink(missing_ok=True)

    def require_no_links(self) -> None:
        """Raises UserError for a link among the run's files and its clients' folders: it would be written elsewhere."""
        for name in (*self.list_folder(), *(f"clients/{client}" for client in self.list_folder("clients"))):
            self.get_path(name)

    def make_clients_folder(self) -> Path:
        """The folder of the clients' adapters, made where it is missing. Raises UserError as `require_no_links`."""
        self.require_no_links()
        clients = self.path / "clients"
        with report_os_errors(f"write to {clients}", f"free some space and `fedpeft resume {self.path}`"):
            clients.mkdir(exist_ok=True)
        return clients

    @property
    def exported_clients(self) -> list[str]:
        """The ids of the clients whose adapters lie here, sorted; those that joined too."""
        names = [name for name in self.list_folder("clients") if not name.startswith(".")]
        return [name for name in names if self.get_path(f"clients/{name}").is_dir()]

    def discard_if_empty(self) -> None:
        """Takes back what `create` wrote where no round was completed: there is nothing to resume."""
        if self.has(CHECKPOINT) or self.has("result.json"):
            return
        # in this order: it stops being a run first
        for name in ("experiment.yaml", "environment.json", "fingerprint.json", *LOGS):
            (self.path / name).unlink(missing_ok=True)
