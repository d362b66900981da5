"""The table of costs to a target: within 80 columns, and what was never reached."""

import io

from rich.console import Console

from fedpeft.display.targets import make_target_table

REACHED = {
    "seeds": 5,
    "reached": 4,
    "round": 3.25,
    "bytes": 3 * 2**20,
    "client_seconds": 12.5,
    "peak_memory_mib": 900.4,
}
NEVER = {"seeds": 5, "reached": 0, "round": None, "bytes": None, "client_seconds": None, "peak_memory_mib": None}
COSTS = {
    "fedit": {"score": 0.7, "methods": {"fedit": REACHED}},
    "[red]best[/red]": {"score": 0.812, "methods": {"fedit": NEVER, "[red]best[/red]": REACHED}},
    "0.5": {"score": 0.5, "methods": {"fedit": REACHED}},
}


def show(*call):
    console = Console(file=io.StringIO(), width=80)
    console.print(make_target_table(*call))
    return console.file.getvalue()


def test_the_highest_final_score_is_the_target_or_the_number_asked_for():
    text = show(COSTS)
    assert "81.2 %" in text and max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert ["fedit", "0/5", "-", "-", "-", "-"] in lines
    assert ["[red]best[/red]", "4/5", "3.2", "3.000", "12.5", "900"] in lines
    assert "50.0 %" in show(COSTS, 0.5)


def test_without_a_curve_there_is_no_table():
    assert make_target_table({}) is None and make_target_table(COSTS, 0.123) is None
