"""What one round did: which clients were asked, what came back and what became of it."""

from dataclasses import dataclass, field
from typing import Any

from fedpeft.federation.message import Scalar


@dataclass
class RoundRecord:
    """What one round did, by client id. Bytes are those of the encoded messages; seconds are wall-clock."""

    round: int
    bytes_down: dict[str, int]
    bytes_up: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, dict[str, Scalar]] = field(default_factory=dict)  # what clients report of themselves
    of_clients: dict[str, dict[str, Scalar]] = field(default_factory=dict)  # what the server knows of them now
    quarantined: dict[str, str] = field(default_factory=dict)  # why a client did not count, failures too
    failed: set[str] = field(default_factory=set)  # those of them from which no reply came
    clipped: dict[str, float] = field(default_factory=dict)  # the fraction left of an update that went too far
    retried: dict[str, int] = field(default_factory=dict)  # how often a client was asked again
    surplus: set[str] = field(default_factory=set)  # whose usable replies were more than the round wants
    excluded: dict[str, int] = field(default_factory=dict)  # clients that sit out from now on, until after this round
    readmitted: set[str] = field(default_factory=set)  # clients that are asked again after an exclusion
    train_seconds: float = 0.0
    client_seconds: dict[str, float] = field(default_factory=dict)
    aggregate_seconds: float = 0.0

    def describe_server(self) -> list[dict[str, Any]]:
        """Lines of the log with what the server knows of each client after the round; none where it says nothing."""
        return [
            {**scalars, "round": self.round, "split": "server", "client": client}
            for client, scalars in sorted(self.of_clients.items())
        ]

    def describe_client(self, client: str) -> dict[str, Any]:
        """One asked client's line of the log: what it reported, what it cost and what became of it."""
        marks = {
            "quarantined": self.quarantined.get(client),
            "failed": client in self.failed,
            "clipped": round(self.clipped[client], 4) if client in self.clipped else None,
            "retried": self.retried.get(client),
            "surplus": client in self.surplus,
            "excluded_until": self.excluded.get(client),
            "readmitted": client in self.readmitted,
        }
        return {
            **self.scalars.get(client, {}),  # first: what the server knows is not for a client to say
            "round": self.round,
            "split": "train",
            "client": client,
            "bytes_down": self.bytes_down[client],
            "bytes_up": self.bytes_up.get(client, 0),
            **{name: mark for name, mark in marks.items() if mark is not None and mark is not False},
        }
