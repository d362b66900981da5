"""Methods beside each other: what their models score, what that cost, and who was left out on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedpeft.display.targets import CAPTION as TARGET_CAPTION
from fedpeft.display.targets import make_target_table
from fedpeft.errors import printable
from fedpeft.units import MIB

HEADINGS = (
    "method", "lr", "deployed %", "worst client %", "chose trained", "received %", "trained %",
    "adapter", "head", "MiB down/up", "peak MiB", "s",
)  # fmt: skip
LEFT_OUT = "left out"
_SCORES, _CANDIDATES, _COSTS = HEADINGS[:5], (HEADINGS[0], *HEADINGS[5:7]), (HEADINGS[0], *HEADINGS[7:])
_CANDIDATES_CAPTION = (
    "received: what the server's message gives a client now; trained: what its last local training left, before "
    "aggregation; each as if all clients deployed it"
)
_COSTS_CAPTION = (
    "adapter, head: parameters trained; MiB: per client and round, as encoded; peak: memory of the whole process; "
    "s: seconds in all"
)
_MOST_LINES = 10  # on clients that were left out


def make_comparison_tables(comparison: dict[str, Any]) -> Group:
    """The final tables, each within 80 columns: scores over seeds, then what they cost; then who was left out."""
    rows = comparison["rows"]
    seeds, scenario = len(comparison["seeds"]), comparison.get("scenario")
    name = comparison["name"] + (f", {scenario}" if scenario else "")
    caption = (
        "deployed: the model that each client deploys, on its own test examples, clients weighted alike, mean ± sd "
        "over seeds; chose trained: clients that deploy what their last local training left, of all, over seeds"
    )
    left_out = {}
    if any(row["quarantined"] for row in rows):
        left_out = {LEFT_OUT: [_count_left_out(row) for row in rows]}
        caption += (
            f"; {LEFT_OUT}: replies that did not come or could not be used, of all; the other clients' rounds went on"
        )
    scores = _make_table(
        f"{name}: deployed, test {rows[0]['metric']}, last round, {seeds} seed{'s' * (seeds > 1)}",
        _take_columns(rows, _SCORES) | left_out,
    )
    candidates = _make_table(
        "what clients chose from",
        _take_columns(rows, _CANDIDATES),
    )
    costs = _make_table(
        "cost",
        _take_columns(rows, _COSTS),
    )
    runs = comparison.get("runs", {})
    lines = describe_left_out(runs) + describe_policy(runs) + list_resource_notes(runs)
    has_choice = any(row.get("trained") for row in rows)
    parts: list[Table | Text] = [scores, Text(caption, "dim")]
    parts += [candidates, Text(_CANDIDATES_CAPTION, "dim")] if has_choice else []
    parts += [costs, Text(_COSTS_CAPTION, "dim")]
    target = (comparison.get("experiment") or {}).get("target")
    table = make_target_table(comparison.get("cost_to_target", {}), target) if len(rows) > 1 else None
    parts += [table, Text(TARGET_CAPTION, "dim")] if table else []
    texts = describe_differences(rows, comparison.get("differences", []))
    if len(rows) > 1 and (front := comparison.get("accuracy_bytes_front")):
        texts.append(f"No other method scores at least as much for as few bytes: {', '.join(front)}")
    return Group(*parts, *map(Text, texts), *(Text(line, "yellow") for line in lines))


def describe_differences(rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> list[str]:
    """The best mean minus every other method's, in points with an interval of 95 %: whether it is the better one.

    `differences` are those of `runs.differences.compute_differences`; without any there is no line.
    """
    if not differences:
        return []
    best = max(rows, key=lambda row: row["deployed"]["mean"])["label"]
    lines = ["The highest mean minus each other one, points with 95 % intervals, paired by seed and client:"]
    for difference in differences:
        sign = 1 if difference["first"] == best else -1
        other = difference["second" if sign == 1 else "first"]
        if best in (difference["first"], difference["second"]):
            low, high = sorted(100 * sign * difference[bound] for bound in ("low", "high"))
            note = "; not told apart: the interval crosses zero" if difference["crosses_zero"] else ""
            seeds = f"{difference['seeds']} seed{'s' * (difference['seeds'] > 1)}"
            numbers = f"{100 * sign * difference['mean']:+.1f} [{low:.1f}, {high:.1f}]"
            lines.append(f"  {best} - {other}: {numbers}, {seeds}{note}")
    if min(difference["seeds"] for difference in differences) == 1:
        lines.append("  One seed: the intervals are over its clients and say nothing of other divisions of the data.")
    return lines


def _take_columns(rows: Sequence[dict[str, Any]], headings: Sequence[str]) -> dict[str, list[str]]:
    return {heading: [format_cells(row)[HEADINGS.index(heading)] for row in rows] for heading in headings}


def describe_left_out(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line for each method, seed and client whose replies were left out: in how many rounds, and why."""
    lines = [
        f"{label}, seed {run['seed']}: client {client} left out of {len(entry['rounds'])} "
        f"of {run['rounds']} rounds: {entry['reason']}"
        for label, of_label in runs.items()
        for run in of_label
        for client, entry in run.get("left_out", {}).items()
    ]
    return _shorten(lines)


def describe_policy(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A line for each run in which clients were asked again, and one for each client that was excluded, and when."""
    lines = []
    for label, of_label in runs.items():
        for run in of_label:
            if run.get("retried"):
                lines.append(f"{label}, seed {run['seed']}: clients without a reply were asked again {run['retried']}x")
            for client, spans in run.get("excluded", {}).items():
                rounds = ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)
                lines.append(f"{label}, seed {run['seed']}: client {client} excluded in rounds {rounds}")
    return _shorten(lines)


def list_resource_notes(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What of the experiment's resources a method did not follow, each once: its clients were not bound as others'."""
    notes = (
        printable(f"{label}: {note}") for label, own in runs.items() for run in own for note in run.get("notes", ())
    )
    return _shorten(list(dict.fromkeys(note for note in notes if "`resources`" in note)))


def _shorten(lines: list[str]) -> list[str]:
    more = f"and {len(lines) - _MOST_LINES} more; each run's metrics.jsonl has all"
    return [*lines[:_MOST_LINES], more] if len(lines) > _MOST_LINES else lines


def format_cells(row: dict[str, Any]) -> list[str]:
    """One method's row as text, in the order of HEADINGS. In rows of earlier versions every client deployed what it
    received, its `personal` model."""
    row = {"deployed": row.get("personal"), "received": row.get("personal"), "choices": {}} | row
    return [
        row["label"],
        f"{row['lr']:g}" if row["adapter_parameters"] + row["head_parameters"] else "-",
        *(_format_percent(row[key]) for key in ("deployed", "worst_client")),
        _count_choices(row["choices"]),
        *(_format_percent(row[key]) for key in ("received", "trained")),
        f"{row['adapter_parameters']:,}",
        f"{row['head_parameters']:,}",
        f"{row['bytes_down']['mean'] / MIB:.3f}/{row['bytes_up']['mean'] / MIB:.3f}",
        f"{row['peak_memory_mib']:.0f}",
        f"{row['seconds']['mean']:.0f}",
    ]


def _make_table(title: str, columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(title=title, header_style="bold", box=box.SIMPLE_HEAD)
    for heading in columns:
        if heading == "method":
            table.add_column(heading, overflow="fold")  # a long name goes on below: cut, two would look alike
        else:
            table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _count_left_out(row: dict[str, Any]) -> str:
    total = row.get("client_rounds")  # results of earlier versions have none
    return f"{row['quarantined']}/{total}" if total else str(row["quarantined"])


def _count_choices(choices: dict[str, int]) -> str:
    return f"{choices.get('trained', 0)}/{sum(choices.values())}" if choices else "-"


def _format_percent(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value['mean']:.1f}" + ("" if value["sd"] is None else f" ± {100 * value['sd']:.1f}")
