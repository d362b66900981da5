"""What a command imports before its first step."""

import subprocess
import sys


def test_scikit_learn_waits_until_something_is_clustered_or_scored():
    code = "import sys, fedpeft.cli, fedpeft.runs.runner; print([m for m in ('sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
