"""Every benchmark script imports, whatever was renamed; `make lint` checks the names inside their functions."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("engines/*.py"), *FOLDER.glob("gpu/*.py")])
OTHERS = ("flwr", "ray", "pfl")  # which the project does not install


@pytest.fixture
def import_script(monkeypatch):
    """import_script(path) imports a script by its own name, as its neighbours do, and forgets it after."""
    before = set(sys.modules)
    for folder in (FOLDER, FOLDER / "engines", FOLDER / "gpu"):
        monkeypatch.syspath_prepend(str(folder))
    yield lambda path: import_module(path.stem)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(FOLDER):
            del sys.modules[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=[str(path.relative_to(FOLDER)) for path in SCRIPTS])
def test_a_script_imports_and_says_what_it_does(import_script, path):
    try:
        module = import_script(path)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in OTHERS:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert module.__doc__ and Path(module.__file__) == path


def test_a_python_that_lacks_a_package_is_one_line(import_script, tmp_path):
    foreign = import_script(FOLDER / "engines/other_python.py")
    with pytest.raises(SystemExit, match=r"^--flower-python \S+ cannot import no_such_package and fedpeft: Module"):
        foreign.require_importable("--flower-python", sys.executable, "no_such_package")
    with pytest.raises(SystemExit, match=r"^--pfl-python /no/python cannot import pfl and fedpeft: .*No such file"):
        foreign.require_importable("--pfl-python", "/no/python", "pfl")
    assert foreign.make_environment({"X": "1"})["PYTHONPATH"].split(":")[0] == str(FOLDER.parent / "src")


def test_the_overhead_of_rounds_is_measured(import_script, monkeypatch, tmp_path):
    script = import_script(FOLDER / "engine_overhead.py")
    monkeypatch.setattr(sys, "argv", ["x", "--clients", "4", "--repeats", "2", "--out", str(tmp_path / "o.json")])
    script.main()
    figures = json.loads((tmp_path / "o.json").read_text())
    assert all(figures[f"ms_per_client_{case}"]["min"] > 0 for case in script.CASES)
