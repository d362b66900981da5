"""fedpeft's batched engine: several clients in one forward and one backward."""

from fedpeft_local import Parts
from work import Rounds, Work, contest

from fedpeft.engines.batched import BatchedEngine


def run(work: Work, rounds: Rounds) -> None:
    parts = Parts(work)
    engine = BatchedEngine(parts.method, parts.clients, parts.templates, parts.settings, parts.seed, parts.workers)
    parts.compete(engine, rounds)


if __name__ == "__main__":
    contest(run)
