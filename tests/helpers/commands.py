"""Commands run in this process (starting a new one takes longer than most runs), as `main` does."""

import sys
from dataclasses import dataclass

import pytest

from fedpeft.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def fedpeft(monkeypatch, capsys):
    """Runs a command line in a folder."""

    def call(*arguments, cwd) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["fedpeft", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        output = capsys.readouterr()
        return Done(code, output.out, output.err)

    return call


def refused(done, *words, code=2):
    """Checks that the command ended in one line on standard error that holds the words."""
    assert done.returncode == code, done
    (line,) = (line for line in done.stderr.strip().splitlines() if line and "it/s]" not in line)  # progress
    assert line.startswith("error: ") and line.isprintable() and len(line) < 500
    for word in words:
        assert word in line
