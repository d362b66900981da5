"""The tracebacks of a run's failures, in a file of its folder: the screen and the logs show one line of each."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedpeft.runs.files import Files

FAILURES = "failures.log"
MAX_BYTES = 4 << 20  # of this file and of `failures.log.1` before it: a client may fail in every round


class FailureLog(RotatingFileHandler):
    """Writes what this package logs from ERROR on to `<folder>/failures.log`, until it is closed.

    Where nothing fails no file is made. Raises UserError where a link stands in its place.
    """

    def __init__(self, folder: Path) -> None:
        path = Files(folder).get_path(FAILURES)
        super().__init__(
            path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace", delay=True
        )
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
