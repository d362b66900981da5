"""fedpeft's local engine with the frozen-prefix cache; for adapters in the lowest block it is the engine without."""

from fedpeft_local import Parts
from work import Rounds, Work, contest

from fedpeft.acceleration import make_accelerations
from fedpeft.engines.local import LocalEngine

LIMIT_MIB = 2048


def run(work: Work, rounds: Rounds) -> None:
    parts = Parts(work)
    accelerations = make_accelerations({"prefix_cache": {"limit_mib": LIMIT_MIB}})
    engine = LocalEngine(
        parts.method, parts.clients, parts.templates, parts.settings, parts.seed, parts.workers, accelerations
    )
    parts.compete(engine, rounds)


if __name__ == "__main__":
    contest(run)
