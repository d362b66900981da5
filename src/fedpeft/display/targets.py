"""What methods cost until they first reach the best final score."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedpeft.units import MIB

CAPTION = (
    "rounds, bytes of all clients, and seconds of their rounds together, means over the seeds that reach it; peak: "
    "memory of the whole process"
)


def make_target_table(costs: Mapping[str, Mapping[str, Any]], target: float | None = None) -> Table | None:
    """The costs of every method until it reaches `target`, by default the highest final score that one has.

    `costs` are those of `runs.targets.compute_target_costs`; None where there are none.
    """
    name = f"{target:g}" if target is not None else max(costs, key=lambda key: costs[key]["score"], default="")
    if name not in costs:
        return None
    what = "" if target is not None else f", {name}'s in its last round"
    table = Table(
        title=f"cost until a validation score of {100 * costs[name]['score']:.1f} %{what}",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("method", overflow="fold")
    for heading in ("seeds\nthat reach it", "rounds", "MiB", "client s", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, own in costs[name]["methods"].items():
        mib = None if own["bytes"] is None else own["bytes"] / MIB
        numbers = ((own["round"], 1), (mib, 3), (own["client_seconds"], 1), (own["peak_memory_mib"], 0))
        cells = ["-" if number is None else f"{number:.{digits}f}" for number, digits in numbers]
        table.add_row(Text(label), f"{own['reached']}/{own['seeds']}", *cells)
    return table
