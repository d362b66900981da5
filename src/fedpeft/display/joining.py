"""What a joining client's models score."""

from typing import Any

from rich import box
from rich.table import Table

from fedpeft.tasks.examples import SPLITS


def make_joining_table(result: dict[str, Any]) -> Table:
    """A joining client's test score by model, in the order in which it came to them."""
    epochs = f"{result['epochs']} local epoch{'s' * (result['epochs'] > 1)}"
    lines = {
        "received": "as received, at once",
        "trained": f"after {epochs} on it",
        "answer": "after the server's answer",
        "deployed": "deployed, by its own validation: exported",
        "alone": f"alone: {epochs} from the start",
        "mean": "mean of all clients",
    }
    examples = ", ".join(f"{result['rows'][split]} {split}" for split in SPLITS)
    table = Table(
        title=f"{result['client']} joins {result['method']} ({examples} examples)",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("model")
    table.add_column(f"test {result['metric']} %", justify="right")
    for which, line in lines.items():
        if which in result["test"]:
            table.add_row(line, f"{100 * result['test'][which][result['metric']]:.1f}")
    return table
