"""What a round costs beside training, against pfl-research; and 10,000 clients of whom 1 % train in a round.

    python benchmarks/engines/overhead.py --pfl-python PATH

A training step that does nothing, 128 KiB of adapter. Each side runs in processes of its own, in turn. Writes
results/engines_overhead.json. "kept" is with what simulated clients keep of their last training (a personal model
each), which lies in the same memory here and on the clients' devices elsewhere.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from report import keep, machine, parser, spread

HERE = Path(__file__).parent
TAIL = 10  # rounds at either end of a long run that are compared


def measured(python: str, script: str, **settings: Any) -> dict[str, Any]:
    command = [python, str(HERE / script), json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def against_pfl(pfl: str, clients: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a round, process by process, and fedpeft's over pfl's."""
    sides: dict[str, list[float]] = {"fedpeft_1_worker": [], "fedpeft_2_workers": [], "pfl": []}
    for repeat in range(repeats):
        for workers, name in enumerate(("fedpeft_1_worker", "fedpeft_2_workers"), 1):
            every = {"clients": clients, "rounds": rounds, "participation": 1.0, "workers": workers, "keeps": True}
            sides[name].append(median(measured(sys.executable, "noop_fedpeft.py", **every)["round_seconds"]))
        sides["pfl"].append(median(measured(pfl, "noop_pfl.py", clients=clients, rounds=rounds)["round_seconds"]))
        print(f"{repeat + 1}/{repeats}", *(f"{name} {1000 * s[-1]:.0f} ms" for name, s in sides.items()), flush=True)
    ratios = {
        f"{name}_over_pfl": spread([own / theirs for own, theirs in zip(sides[name], sides["pfl"], strict=True)])
        for name in sides
        if name != "pfl"
    }
    return {"clients": clients, "round_seconds": {name: spread(s) for name, s in sides.items()}, **ratios}


def many(clients: int, rounds: int, keeps: bool) -> dict[str, Any]:
    """Seconds and memory of the first and of the last rounds."""
    settings = {"clients": clients, "rounds": rounds, "participation": 0.01, "workers": 2, "keeps": keeps}
    found = measured(sys.executable, "noop_fedpeft.py", **settings)
    seconds, memory = found["round_seconds"], found["memory_mib"]
    return {
        "clients": clients,
        "first_rounds_seconds": median(seconds[:TAIL]),
        "last_rounds_seconds": median(seconds[-TAIL:]),
        "memory_mib_after_first_round": memory[0],
        "memory_mib_after_last_round": memory[-1],
        **found,
    }


def main() -> None:
    asked = parser(__doc__, 5)
    asked.add_argument("--pfl-python", required=True, help="Python of an environment with pfl==0.6.*")
    asked.add_argument("--clients", type=int, default=1000)
    asked.add_argument("--many", type=int, default=10_000)
    asked.add_argument("--rounds", type=int, default=50, help="of the many")
    wanted = asked.parse_args()
    before = machine()
    result = {
        "against_pfl": against_pfl(wanted.pfl_python, wanted.clients, 9, wanted.repeats),
        "many": many(wanted.many, wanted.rounds, keeps=False),
        "many_kept": many(wanted.many, wanted.rounds, keeps=True),
    }
    for name in ("many", "many_kept"):
        shown = {key: round(value, 3) for key, value in result[name].items() if not isinstance(value, list)}
        print(name, shown)
    print(json.dumps(result["against_pfl"], indent=1))
    if not wanted.dry:
        keep("overhead", before, result)


if __name__ == "__main__":
    main()
