"""How fast rounds are under each option of the engine, as a table and as advice."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fedpeft.runs.bench import TimedOption


def make_bench_table(label: str, options: Sequence[TimedOption], machine: str) -> Table:
    """Seconds of a round by option, the fastest first, and how to choose it."""
    baseline = _find_baseline(options)
    table = Table(title=f"{label}: seconds of a round", caption=machine, header_style="bold", box=box.SIMPLE_HEAD)
    for heading in ("option", "median", "least to most", "first", "speed-up", "results", "in the experiment file"):
        table.add_column(heading, justify="right" if heading in ("median", "first", "speed-up") else "left")
    for row in options:
        table.add_row(
            row.option.name,
            f"{row.seconds:.2f}",
            f"{min(row.later):.2f} - {max(row.later):.2f}",
            f"{row.first:.2f}",
            f"{baseline.seconds / row.seconds:.2f}x",
            row.option.results,
            _format_overrides(row, baseline),
        )
    return table


def describe_best_option(options: Sequence[TimedOption]) -> str:
    """Which option to choose: the fastest whose results are those of any other, and a faster one that rounds."""
    baseline = _find_baseline(options)
    lines = []
    for row in options:
        speed_up = f"{baseline.seconds / row.seconds:.2f}x"
        lines.append(f"{_format_overrides(row, baseline)} ({speed_up}, results {row.option.results})")
        if not row.option.results.startswith("rounded"):
            break
    choice = f"choose {lines[-1]}" + "".join(f"; or {faster}" for faster in lines[:-1])
    if not any(row.option.overrides["prefix_cache"] for row in options):
        choice += "; no prefix cache: the adapter touches the first block, so nothing below it is frozen"
    return choice


def _find_baseline(options: Sequence[TimedOption]) -> TimedOption:
    return next(row for row in options if row.option.results == "exact")


def _format_overrides(row: TimedOption, baseline: TimedOption) -> str:
    """What an experiment file says to choose the option, where that differs from the baseline one."""
    changed = {key: value for key, value in row.option.overrides.items() if value != baseline.option.overrides[key]}
    return ", ".join(f"{k}: {'{}' if k == 'prefix_cache' else v}" for k, v in changed.items()) or "workers: 1"
