"""Pythons of other environments, which run a contestant: this package comes along, what it imports must be there."""

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def make_environment(variables: dict[str, str]) -> dict[str, str]:
    """The environment of a contestant's process, in which this checkout's fedpeft is found."""
    paths = filter(None, (str(SOURCE), os.environ.get("PYTHONPATH")))
    return os.environ | variables | {"PYTHONPATH": os.pathsep.join(paths)}


def require_importable(option: str, python: str, package: str) -> None:
    """Ends the process with one line where this Python cannot import `package` or what fedpeft needs."""
    command = [python, "-c", f"import {package}, fedpeft.runs.build"]
    try:
        process = subprocess.run(command, env=make_environment({}), capture_output=True, text=True)
        reason = (process.stderr.strip() or "no error").splitlines()[-1] if process.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        raise SystemExit(f"{option} {python} cannot import {package} and fedpeft: {reason}; pip install both there")
