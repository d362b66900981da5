"""How fast rounds are under each option of the engine, as a table and as advice."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fedpeft.runs.bench import TimedOption


def bench_table(label: str, timed: Sequence[TimedOption], machine: str) -> Table:
    """Seconds of a round by option, the fastest first, and how to choose it."""
    plain = _find_plain(timed)
    table = Table(title=f"{label}: seconds of a round", caption=machine, header_style="bold", box=box.SIMPLE_HEAD)
    for heading in ("option", "median", "least to most", "first", "speed-up", "results", "in the experiment file"):
        table.add_column(heading, justify="right" if heading in ("median", "first", "speed-up") else "left")
    for row in timed:
        table.add_row(
            row.option.name,
            f"{row.seconds:.2f}",
            f"{min(row.later):.2f} - {max(row.later):.2f}",
            f"{row.first:.2f}",
            f"{plain.seconds / row.seconds:.2f}x",
            row.option.results,
            _format_overrides(row, plain),
        )
    return table


def bench_advice(timed: Sequence[TimedOption]) -> str:
    """Which option to choose: the fastest whose results are those of any other, and a faster one that rounds."""
    plain = _find_plain(timed)
    lines = []
    for row in timed:
        speed_up = f"{plain.seconds / row.seconds:.2f}x"
        lines.append(f"{_format_overrides(row, plain)} ({speed_up}, results {row.option.results})")
        if not row.option.results.startswith("rounded"):
            break
    choice = f"choose {lines[-1]}" + "".join(f"; or {faster}" for faster in lines[:-1])
    if not any(row.option.overrides["prefix_cache"] for row in timed):
        choice += "; no prefix cache: the adapter touches the first block, so nothing below it is frozen"
    return choice


def _find_plain(timed: Sequence[TimedOption]) -> TimedOption:
    return next(row for row in timed if row.option.results == "exact")


def _format_overrides(row: TimedOption, plain: TimedOption) -> str:
    """What an experiment file says to choose the option, where that differs from the plain one."""
    changed = {key: value for key, value in row.option.overrides.items() if value != plain.option.overrides[key]}
    return ", ".join(f"{k}: {'{}' if k == 'prefix_cache' else v}" for k, v in changed.items()) or "workers: 1"
