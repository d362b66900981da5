"""What `--fresh` removes, and what it leaves alone."""

import pytest
from helpers.mistakes import require_line
from helpers.result_files import write_comparison

from fedpeft.runs.lock import lock_folder
from fedpeft.runs.remove import remove_comparison


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    write_comparison(tmp_path / "out", ["fedit", "local"], 2, ["a"], 1)
    return tmp_path / "out"


def test_a_comparisons_runs_and_files_go_and_all_else_stays(out, tmp_path):
    (out / "notes.txt").write_text("mine")
    (out / "fedit/mine").mkdir()
    (out / "other/lr1-seed0").mkdir(parents=True)  # no run: it has no log
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/metrics.jsonl").touch()
    (out / "local/lr9-seed9").symlink_to(tmp_path / "elsewhere")
    (out / "linked").symlink_to(tmp_path / "elsewhere")
    assert remove_comparison(out) == 4
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    assert left == [
        "fedit",
        "fedit/mine",
        "linked",
        "local",
        "local/lr9-seed9",
        "notes.txt",
        "other",
        "other/lr1-seed0",
    ]
    assert (tmp_path / "elsewhere/metrics.jsonl").exists()


def test_a_folder_with_nothing_else_is_gone(out, tmp_path):
    assert remove_comparison(out) == 4 and not out.exists()
    assert remove_comparison(tmp_path / "none") == 0


def test_a_run_that_another_process_writes_stays(out):
    with lock_folder(out / "local/lr0.005-seed1"):
        require_line(lambda: remove_comparison(out), "is in use by", "wait until that ends")
        assert (out / "local/lr0.005-seed1/metrics.jsonl").exists() and (out / "compare.json").exists()
