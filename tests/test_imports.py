"""What a command imports before its first step."""

import subprocess
import sys

import pytest
from helpers.result_files import write_comparison


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


def test_what_is_finished_is_read_without_the_libraries_that_train(tmp_path):
    write_comparison(tmp_path / "out", ["local", "fedit"], 2, ["a", "b"], 2)
    run = tmp_path / "out/fedit/lr0.005-seed0"
    code = (
        "import sys, fedpeft; from fedpeft.cli.reporting import report, show, table; from pathlib import Path\n"
        f"out, run = Path({str(tmp_path / 'out')!r}), Path({str(run)!r})\n"
        "table([out], 'latex'); table([run], 'csv', True); show(out); report(run)\n"
        "assert len(fedpeft.show(out)) == 2 and 'fedit' in fedpeft.table(run)\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("[]"), done
