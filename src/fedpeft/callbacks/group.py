"""Several callbacks as one: the boundary between a run and the code of whoever watches it."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fedpeft.callbacks.base import RunCallback, RunInfo
from fedpeft.engines.base import Outcome, Scores
from fedpeft.errors import UserError, preview, printable
from fedpeft.federation.record import RoundRecord

log = logging.getLogger(__name__)


class CallbackGroup(RunCallback):
    """Tells each of its callbacks, in their order. One that fails is told nothing more, and `raise_failure` says so.

    Raises UserError for what is no callback. Groups among them are resolved into their members.
    """

    def __init__(self, callbacks: Iterable[RunCallback]) -> None:
        self._active: list[RunCallback] = []
        self._failure: str | None = None
        for callback in callbacks:
            if not isinstance(callback, RunCallback):
                kind = ", a class: give an object of it" if isinstance(callback, type) else ""
                raise UserError(f"callbacks: expected fedpeft.RunCallback objects, received {preview(callback)}{kind}")
            self._active += callback._active if isinstance(callback, CallbackGroup) else [callback]

    def raise_failure(self, consequence: str) -> None:
        """Raises UserError where a callback has failed; its line ends with the consequence for the run."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise UserError(f"{failure}; {consequence}")

    def on_run_start(self, run: RunInfo) -> None:
        self._tell("on_run_start", run)

    def on_client_end(self, outcome: Outcome) -> None:
        self._tell("on_client_end", outcome)

    def on_evaluation_start(self, split: str, clients: int) -> None:
        self._tell("on_evaluation_start", split, clients)

    def on_evaluation_end(self, split: str, clients: int) -> None:
        self._tell("on_evaluation_end", split, clients)

    def on_round_end(self, record: RoundRecord, validation: Mapping[str, Scores]) -> None:
        self._tell("on_round_end", record, validation)

    def on_note(self, line: str) -> None:
        self._tell("on_note", line)

    def on_run_end(self, result: Mapping[str, Any]) -> None:
        self._tell("on_run_end", result)

    def on_run_error(self, error: BaseException) -> None:
        self._tell("on_run_error", error)

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in list(self._active):
            try:
                getattr(callback, event)(*arguments)
            except Exception as error:  # the boundary to users' own code: the run's work must outlive its mistakes
                name = f"callback {type(callback).__name__}.{event}"
                if not isinstance(error, UserError):
                    log.exception("%s failed", name)
                self._active.remove(callback)
                # A tracker's own UserError says what to do; of other errors the type is part of the reason.
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._failure = self._failure or f"{name} failed: {printable(reason, 300)}"
