"""What one round did: which clients were asked, what came back and what became of it."""

from dataclasses import dataclass, field

from fedpeft.federation.message import Scalar


@dataclass
class RoundRecord:
    """What one round did, by client id. Bytes are those of the encoded messages; seconds are wall-clock."""

    round: int
    bytes_down: dict[str, int]
    bytes_up: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)  # why a client did not count, failures too
    failed: set[str] = field(default_factory=set)  # those of them from which no reply came
    clipped: dict[str, float] = field(default_factory=dict)  # the fraction left of an update that went too far
    train_seconds: float = 0.0
    client_seconds: dict[str, float] = field(default_factory=dict)
    aggregate_seconds: float = 0.0
