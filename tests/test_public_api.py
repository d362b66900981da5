"""What `import fedpeft` offers: all of it documented and typed, none of it imported before it is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fedpeft


def test_names_are_imported_for_type_checkers_as_they_are_found():
    tree = ast.parse(Path(fedpeft.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    found = {name: f"fedpeft.{module}" for name, module in fedpeft._MODULES.items()} | {"aggregation": "fedpeft"}
    assert imported == found
    assert dir(fedpeft) == sorted(fedpeft.__all__) == sorted([*fedpeft._MODULES, "__version__"])
    with pytest.raises(AttributeError, match="has no attribute 'rnu'"):
        fedpeft.rnu  # noqa: B018


@pytest.mark.parametrize("name", [name for name in fedpeft.__all__ if name != "__version__"])
def test_all_of_it_is_documented(name):
    value = getattr(fedpeft, name)
    assert inspect.getdoc(value)
    for method, function in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []:
        if not method.startswith("_") and function.__module__.startswith("fedpeft"):
            assert inspect.getdoc(function), f"{name}.{method}"


def list_functions(name):
    """The public functions of a name, its own and those of a class."""
    value = getattr(fedpeft, name)
    if inspect.isfunction(value):
        return [value]
    if not inspect.isclass(value):
        return []
    members = inspect.getmembers(value, lambda member: inspect.isfunction(member) or isinstance(member, property))
    functions = [getattr(member, "fget", member) for own, member in members if not own.startswith("_")]
    return [function for function in functions if function.__module__.startswith("fedpeft")]


@pytest.mark.parametrize("name", [name for name in fedpeft.__all__ if name != "__version__"])
def test_all_of_it_is_typed(name):
    for function in list_functions(name):
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty, function.__qualname__
        untyped = [
            p for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        assert not untyped, f"{function.__qualname__}: {untyped}"
        assert inspect.getdoc(function), function.__qualname__


def test_importing_it_imports_nothing_heavy():
    code = "import sys, fedpeft; fedpeft.UserError; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
