"""The tracebacks of a run's failures, in a file of its folder: the screen and the logs show one line of each."""

import logging
from pathlib import Path

FAILURES = "failures.log"


class FailureLog(logging.FileHandler):
    """Writes what this package logs from ERROR on to `<folder>/failures.log`, until it is closed.

    Where nothing fails no file is made.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FAILURES, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        self._logger = logging.getLogger("fedpeft")
        self._level = self._logger.level
        self._logger.addHandler(self)
        if self._logger.getEffectiveLevel() > logging.ERROR:  # the screen's level is not the file's
            self._logger.setLevel(logging.ERROR)

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
        super().close()
