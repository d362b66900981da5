"""A class is found by the name of its file, and a file without exactly one says so."""

import pytest

from fedpeft import engines
from fedpeft.config import load_experiment
from fedpeft.discovery import find_class, list_files
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine
from fedpeft.errors import UserError

ONE = "from fedpeft.engines.local import LocalEngine\n\nclass Mine(LocalEngine):\n    pass\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(name, text) puts a file into the package of engines."""
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


def test_files_are_listed_sorted_without_packages_and_those_named(tmp_path):
    for name in ("b", "a", "base"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").touch()
    assert list_files([str(tmp_path)], without=["base"]) == ["a", "b"]


def test_the_class_is_the_files_own_and_not_one_that_it_imports(write):
    write("found_mine", ONE)
    assert find_engine("found_mine").__name__ == "Mine"


def test_an_engine_dropped_in_as_a_file_is_what_an_experiment_may_name(write, experiment_file):
    write("found_engine", ONE)
    assert "found_engine" in engines.list_engines()
    assert load_experiment(experiment_file, ["engine=found_engine"]).engine == "found_engine"
    with pytest.raises(UserError, match="no engine 'found_engin', did you mean 'found_engine'"):
        load_experiment(experiment_file, ["engine=found_engin"])


@pytest.mark.parametrize(
    ("name", "text", "received"),
    [
        ("found_none", "from fedpeft.engines.local import LocalEngine\n", "none"),
        ("found_two", ONE + "\nclass Other(LocalEngine):\n    pass\n", "Mine, Other"),
        ("found_abstract", "from fedpeft.engines.base import Engine\n\nclass Half(Engine):\n    pass\n", "none"),
    ],
)
def test_a_file_without_exactly_one_is_one_line(write, name, text, received):
    write(name, text)
    with pytest.raises(UserError, match=f"engine {name!r}: .*{name}.py must define one engine, received: {received}$"):
        find_class("fedpeft.engines", name, Engine, "engine", "engine")
