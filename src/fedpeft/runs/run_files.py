"""What can be read of a run without the libraries that train: `fedpeft ls` answers at once."""

from typing import Any

from fedpeft.errors import UserError
from fedpeft.runs.files import Files
from fedpeft.runs.stored import StoredResult, upgrade_result


class RunFiles(Files):
    """The result of one run."""

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
