"""What a command imports before its first step."""

import subprocess
import sys

import pytest


def test_scikit_learn_waits_until_something_is_clustered_or_scored():
    code = "import sys, fedpeft.cli, fedpeft.runs.runner; print([m for m in ('sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["init", "new.yaml"], ["ls"], ["--help"], ["inspect", "d.csv"]])
def test_a_command_that_trains_nothing_starts_without_the_libraries_that_do(tmp_path, command):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name in ("experiment.yaml", "metrics.jsonl"):
        (tmp_path / "runs" / "a" / name).touch()
    (tmp_path / "d.csv").write_text("text,label,client\ngood,1,a\nbad,0,b\n")
    code = "import sys; sys.argv[0] = 'fedpeft'; from fedpeft.cli import main; main(); " + (
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == "" and done.stdout.strip().endswith("[]"), done
