"""What a model would do in an experiment, as a table."""

from collections.abc import Sequence
from datetime import timedelta

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedpeft.runs.check_model import MethodCheck


def describe_checks(checks: Sequence[MethodCheck]) -> Group:
    """Parameters, MiB of a message, memory and the time of a run by method."""
    table = Table(title="one client trained and scored once", header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for heading in ("adapter", "head", "MiB", "peak MiB", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        table.add_row(
            Text(check.label),
            f"{check.adapter_parameters:,}",
            f"{check.head_parameters:,}",
            f"{check.message_mib:.3f}",
            f"{check.peak_mib:,.0f}",
            str(timedelta(seconds=max(1, round(check.seconds)))),
        )
    caption = (
        "adapter, head: parameters trained; MiB: of one message, as encoded; peak: memory of the whole process; time: "
        "of one run with one seed, about, if every client takes as long as this one"
    )
    return Group(table, Text(caption, "dim"))
