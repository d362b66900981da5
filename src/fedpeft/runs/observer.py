"""What a run tells whoever watches it."""

from typing import TYPE_CHECKING

from fedpeft.engines.base import Outcome, Scores
from fedpeft.federation.record import RoundRecord

if TYPE_CHECKING:
    from fedpeft.runs.build import RunContext


class NullObserver:
    """Watches nothing; a display overrides what it wants to hear of."""

    def started(self, label: str, context: "RunContext", rounds: int, completed: int) -> None:
        """A run begins or goes on after `completed` of its rounds."""

    def client_finished(self, outcome: Outcome) -> None:
        """A client's round ended, with a reply or without."""

    def evaluation_started(self, split: str, clients: int) -> None:
        """So many clients' models begin to be scored on a split: "validation", "test", or "cross", each on all test
        rows."""

    def evaluation_finished(self, split: str, clients: int) -> None:
        """They are scored."""

    def round_finished(self, record: RoundRecord, validation: dict[str, Scores]) -> None:
        """A round is on disk; `validation` holds the scores by client, where this round was evaluated."""

    def noted(self, line: str) -> None:
        """Something a user should know."""
