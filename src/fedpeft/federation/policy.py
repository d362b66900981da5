"""Which clients a round asks, whose replies it keeps, and who is not asked for a while: pure functions.

They depend on the settings, the seed, the round and on which clients failed, never on the order in which clients
return. So results are those of any engine as long as the same clients fail; where a deadline is missed, that is for
the machines to say. With no failures, exclusion and retries change nothing. Over-selection asks more clients and keeps
as many as before, by the order in which they were drawn and not by their speed: a slow client is never a reason to
leave another's data out more often [choice; Bonawitz et al., arXiv 1902.01046, keep the first to return].
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from fedpeft.federation.message import Reply
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig


@dataclass(frozen=True)
class Standing:
    """How a client did in the latest rounds that asked it."""

    failures: int  # rounds in a row from which it has no usable reply
    excluded_until: int = 0  # the last round that does not ask it; 0: it is not excluded

    def is_excluded(self, round_: int) -> bool:
        """Whether this round does not ask it."""
        return round_ <= self.excluded_until


Standings = Mapping[str, Standing]  # by client id, of those whose latest reply was of no use


def count_needed(training: TrainingConfig, clients: int) -> int:
    """The replies that a round wants: `participation` of all clients, excluded ones too, at least one."""
    return max(1, _ceil(training.participation * clients))


def count_quorum(training: TrainingConfig, clients: int) -> int:
    """The usable replies without which there is no round: `quorum` of those that it wants."""
    return _ceil(training.quorum * count_needed(training, clients))


def draw_clients(
    training: TrainingConfig, clients: Sequence[str], standings: Standings, seed: int, round_: int
) -> list[str]:
    """The ids that a round asks, in the order in which they are drawn by (seed, round).

    Excluded clients are passed over, but for those without which the quorum could not be met: those whose exclusion
    ends first are asked all the same.
    """
    order = torch.randperm(len(clients), generator=generator(seed, "select", round_)).tolist()
    excluded = {client for client, standing in standings.items() if standing.is_excluded(round_)} & set(clients)
    missing = count_quorum(training, len(clients)) - (len(clients) - len(excluded))
    if missing > 0:
        by_end = sorted(excluded, key=lambda client: (standings[client].excluded_until, client))
        excluded -= set(by_end[:missing])
    count = _ceil(count_needed(training, len(clients)) * (1 + training.over_selection))
    return [clients[i] for i in order if clients[i] not in excluded][:count]


def keep_needed(replies: Sequence[Reply], drawn: Sequence[str], needed: int) -> list[Reply]:
    """As many replies as the round wants, those of the clients drawn first, in the order of `replies`."""
    if len(replies) <= needed:
        return list(replies)
    rank = {client: position for position, client in enumerate(drawn)}
    kept = set(sorted((reply.client for reply in replies), key=rank.__getitem__)[:needed])
    return [reply for reply in replies if reply.client in kept]


def update_standings(
    training: TrainingConfig, standings: Standings, asked: Collection[str], useless: Collection[str], round_: int
) -> dict[str, Standing]:
    """The standings after a round that asked some clients, of which the `useless` gave no usable reply.

    A client that failed as often in a row as `exclude_after` says is excluded for the next `readmit_after` rounds. The
    first failure after that excludes it again, the first usable reply clears it.
    """
    if training.exclude_after is None:
        return {}
    updated = {client: standing for client, standing in standings.items() if client not in asked}
    for client in useless:
        failures = standings[client].failures + 1 if client in standings else 1
        is_excluded = failures >= training.exclude_after
        updated[client] = Standing(failures, round_ + training.readmit_after if is_excluded else 0)
    return updated


def _ceil(number: float) -> int:
    return math.ceil(number - 1e-9)  # 0.1 * 30 is a little more than 3
