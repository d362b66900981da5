"""The commands, thin: each reads its arguments, calls one function of ours and shows what it returns.

Heavy libraries are imported inside the commands, so that `fedpeft --help` answers at once.
"""

from fedpeft.cli import site  # noqa: F401 - adds its commands
from fedpeft.cli.app import app
from fedpeft.cli.entry import main
from fedpeft.cli.exporting import export
from fedpeft.cli.files import init, ls, validate
from fedpeft.cli.inspecting import inspect
from fedpeft.cli.measuring import bench, budget
from fedpeft.cli.personal import join, predict
from fedpeft.cli.reporting import report, show, table, watch
from fedpeft.cli.training import compare, demo, resume, run

__all__ = ["app", "main"]

# As help lists them.
COMMANDS = (
    *(init, inspect, validate, demo, run, resume, compare),
    *(show, table, report, watch, ls, predict, join, export, bench, budget),
)
for command in COMMANDS:
    app.command()(command)
