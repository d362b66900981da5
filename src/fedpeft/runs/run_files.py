"""What can be read of a run without the libraries that train: `ls`, `show`, `table` and `report` answer at once."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedpeft.config.validation import first_error
from fedpeft.config.yaml_reader import read_yaml
from fedpeft.errors import UserError
from fedpeft.runs.files import Files
from fedpeft.runs.stored import StoredResult, StoredSettings, upgrade_result

LOGS = ("metrics.jsonl", "timings.jsonl")


def get_run_path(out: Path, label: str, rate: float, seed: int) -> Path:
    """The folder of one run of the comparison under `out`."""
    return out / label / f"lr{rate:g}-seed{seed}"


class RunFiles(Files):
    """The settings and the result of one run."""

    changed_in_place = LOGS

    def require_run(self) -> None:
        """Raises UserError when there is no run here."""
        if not self.has("experiment.yaml"):
            raise UserError(f"no run at {self.path}; `fedpeft ls` lists the runs here")

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings. Raises UserError when this is no run, or its settings are damaged."""
        self.require_run()
        file = self.get_path("experiment.yaml")
        advice = f"put it back, or remove {self.path} and start the run again"
        try:
            contents = read_yaml(file)
        except UserError as error:
            raise UserError(f"{error}; {advice}") from error
        try:
            return StoredSettings.model_validate(contents).model_dump()
        except ValidationError as error:
            problem = first_error(error, StoredSettings)
            raise UserError(f"{file} does not hold the settings of one run ({problem}); {advice}") from error

    @property
    def result(self) -> dict[str, Any] | None:
        """The final result, or None while the run is not finished. Raises UserError when the file is damaged."""
        if not self.has("result.json"):
            return None
        advice = f"remove it, and `fedpeft resume {self.path}` writes it again"
        return upgrade_result(self.read_json("result.json", StoredResult, advice))

    def require_result(self) -> dict[str, Any]:
        """The final result. Raises UserError while the run is not finished or when the file is damaged."""
        result = self.result
        if result is None:
            raise UserError(f"{self.path} is not finished; finish it first: fedpeft resume {self.path}")
        return result
