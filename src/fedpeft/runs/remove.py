"""Removes a comparison: its runs and its files, and nothing else that lies in the folder."""

import shutil
from pathlib import Path

from fedpeft.runs.compare_results import FILE
from fedpeft.runs.files import Files, report_os_errors
from fedpeft.runs.lock import lock_folder

_FILES = (FILE, "report.html")


def remove_comparison(out: Path) -> int:
    """Removes the runs of a comparison under `out` with its tables; returns how many runs those were.

    What has another name, or is a link, stays. Raises UserError where another process writes here, or where the system
    refuses.
    """
    if not out.is_dir():
        return 0
    with lock_folder(out), report_os_errors(f"remove {out}", "check its permissions"):
        files = Files(out)
        runs = [
            f"{label}/{name}"
            for label in files.list_folder()
            if (out / label).is_dir() and not (out / label).is_symlink()
            for name in files.list_folder(label)
            if _is_run(out / label / name)
        ]
        for run in runs:
            with lock_folder(out / run):
                shutil.rmtree(out / run)
        for label in {run.split("/")[0] for run in runs}:
            if not files.list_folder(label):
                (out / label).rmdir()
        for name in _FILES:
            if files.has(name):
                (out / name).unlink()
    return len(runs)


def _is_run(path: Path) -> bool:
    is_named = path.name.startswith("lr") and "-seed" in path.name
    return is_named and not path.is_symlink() and (path / "metrics.jsonl").is_file()
