"""What was measured: spreads, what the contestants took against each other, and the files they are kept in."""

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from fedpeft.environment import describe_environment

RESULTS = Path(__file__).parent.parent / "results"
Runs = dict[str, list[dict[str, Any]]]  # by contestant, one per repeat
AGAINST = ("plain", "flower", "flower_kept", "pfl")


def parser(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """What every measurement asks for."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--dry", action="store_true", help="write no result")
    return made


def machine() -> dict[str, Any]:
    """Machine, versions and load; to be asked before the measurement makes a load of its own."""
    return describe_environment() | {"load_before": os.getloadavg()}


def keep(name: str, before: dict[str, Any], found: dict[str, Any]) -> None:
    """Writes results/engines_NAME.json; `before` is what `machine` said."""
    (RESULTS / f"engines_{name}.json").write_text(json.dumps({"environment": before} | found, indent=1))


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def summary(runs: Runs) -> dict[str, Any]:
    """By contestant: seconds, memory, and how many times as long the others took, repeat by repeat."""
    found = {}
    for name, own in runs.items():
        ratios = {
            other: spread(
                [theirs["whole_seconds"] / mine["whole_seconds"] for theirs, mine in zip(runs[other], own, strict=True)]
            )
            for other in AGAINST
            if other in runs and other != name
        }
        found[name] = {
            "whole_seconds": spread([run["whole_seconds"] for run in own]),
            "round_seconds": spread([median(run["round_seconds"]) for run in own]),
            "first_step_seconds": spread([run["first_step_seconds"] for run in own]),
            "model_seconds": spread([run["model_seconds"] for run in own]),
            "peak_memory_mib": spread([run["peak_memory_mib"] for run in own]),
            "whole_seconds_of_others_over_own": ratios,
        }
    return found


def difference(runs: Runs) -> dict[str, float]:
    """By contestant: how far the mean loss of any round, in any repeat, is from that of the first contestant."""
    first = next(iter(runs.values()))[0]["losses"]
    return {
        name: max(abs(a - b) for run in own for a, b in zip(run["losses"], first, strict=True))
        for name, own in runs.items()
    }


def table(found: dict[str, Any]) -> str:
    against = [name for name in AGAINST if name in found]
    headings = ["", "whole s", "round s", "first step s", "MiB", *(f"{name} / own" for name in against)]
    rows = [headings]
    for name, own in found.items():
        kept = own["whole_seconds_of_others_over_own"]
        cells = [cell(own[key]) for key in ("whole_seconds", "round_seconds", "first_step_seconds")]
        rows.append([name, *cells, f"{own['peak_memory_mib']['median']:.0f}", *(cell(kept.get(a)) for a in against)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def cell(found: dict[str, float] | None) -> str:
    """Median (least-most)."""
    return "-" if found is None else f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})"
