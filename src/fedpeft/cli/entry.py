"""The entry point, and the one boundary at which an exception becomes a line and an exit code.

0     done
2     a mistake of the user's, or of a file's: what, where, and the way out
70    a mistake of ours: the traceback is in a file
74    the machine refused to read or write: a full disk, a folder without permission
130   ctrl-C
"""

import logging
import os
import sys
import tempfile
import traceback

import click
import typer
from rich.console import Console
from rich.text import Text

from fedpeft.cli.app import Interrupted, app
from fedpeft.errors import UserError, printable

log = logging.getLogger(__name__)
MISTAKE, BUG, REFUSED, INTERRUPTED = 2, 70, 74, 130
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def main() -> None:
    """Runs the command; a mistake is one line on standard error and an exit code that is not 0."""
    # Progress bars and advice of the libraries below are not ours to show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    code = _run_command()
    if "fedpeft.engines.workers" in sys.modules:  # else there are none, and importing them would load torch
        from fedpeft.engines.workers import exit_past_abandoned

        exit_past_abandoned(code)
    if code:
        sys.exit(code)


def _run_command() -> int:
    """Runs the command that the process was started with; returns its exit code."""
    try:
        _set_up_logging()
        code = app(prog_name="fedpeft", standalone_mode=False)
        if code == INTERRUPTED:  # typer returns this code where it caught ctrl-C itself
            raise KeyboardInterrupt
    except UserError as error:
        return _fail(str(error), MISTAKE)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fedpeft"
        return _fail(f"{error.format_message().rstrip('.')}; `{command} --help` shows what it takes", MISTAKE)
    except click.ClickException as error:
        return _fail(error.format_message(), MISTAKE)
    except Interrupted as error:
        return _fail(f"interrupted; {error}", INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        return _fail(f"{file}{error.strerror or error}; the traceback is in {_write_traceback(error)}", REFUSED)
    except Exception as error:  # whatever else: not the user's mistake
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        return _fail(f"a bug in fedpeft ({reason}); please report it with {_write_traceback(error)}", BUG)
    return 0


def _set_up_logging() -> None:
    """The screen shows what FEDPEFT_LOG asks for; failures of clients have a file in the run's folder."""
    level = os.environ.get("FEDPEFT_LOG", "CRITICAL").upper()
    if level not in _LEVELS:
        raise UserError(f"FEDPEFT_LOG: use one of {', '.join(_LEVELS)}, received {level!r}")
    screen = logging.StreamHandler()
    screen.setLevel(level)  # of its own: a run's file of failures asks for more
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", handlers=[screen])


def _write_traceback(error: Exception) -> str:
    """The path of a new file with the traceback."""
    log.debug("traceback", exc_info=error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fedpeft-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError:  # the disk that is full may be this one
        return "FEDPEFT_LOG=debug, which prints it"
    return file.name


def _fail(line: str, code: int) -> int:
    text = Text.assemble(("error:", "bold red"), f" {printable(line)}")
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return code
