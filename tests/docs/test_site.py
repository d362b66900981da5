"""The site builds without a warning, without a network."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="needs pip install fedpeft[docs]")
    pytest.importorskip("myst_parser", reason="needs pip install fedpeft[docs]")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "linkcheck", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, DOCS, tmp_path / "out"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (DOCS / "_generated/keys.md").is_file()
