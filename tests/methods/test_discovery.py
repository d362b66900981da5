"""Finding methods: by file name, as registered, by entry point; nothing is imported before it is asked for."""

import ast
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedpeft import methods
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.federation.method import Method
from fedpeft.methods import find_method, list_built_in, list_methods, list_rivals, register_method
from fedpeft.methods.fedit import FedIt

PUBLISHED = [
    "centralised", "ditto", "fed_sb", "fedalt", "fedavg_ft", "fedavg_loreft", "feddpa_t", "fedex_lora", "fedhft",
    "fedit", "fedlease", "fedreft", "fedsa_lora", "ffa_lora", "flexlora", "flora", "hetlora", "ifca", "local", 
    "lora_fair", "rolora", "zero_shot",
]  # fmt: skip
FOLDER = Path(methods.__file__).parent


class NamedPoint:
    """An entry point of a distribution, which `EntryPoint` alone cannot have."""

    def __init__(self, name, value, package="other-package"):
        point = EntryPoint(name, value, methods.GROUP)
        self.name, self.value, self.module, self.load = name, value, point.module, point.load
        self.dist = SimpleNamespace(name=package) if package else None


@pytest.fixture
def install(monkeypatch):
    """Stands in for installed packages: install(NamedPoint(...), ...)."""
    points = []

    def entry_points(group, name=None):
        assert group == "fedpeft.methods"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(methods, "entry_points", entry_points)
    return lambda *more: points.extend(more)


@pytest.fixture
def write_method(monkeypatch, tmp_path):
    """Adds a file to the folder of methods, as far as imports go."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"fedpeft.methods.{file.stem}", None)
        vars(methods).pop(file.stem, None)


def test_every_file_is_a_method_under_its_name():
    assert list_built_in() == PUBLISHED == list_methods()
    for name in PUBLISHED:
        kind = find_method(name)
        assert issubclass(kind, Method) and kind.__module__ == f"fedpeft.methods.{name}"
        kind(kind.Options())


def test_no_method_imports_another():
    for name in PUBLISHED:
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            of_methods = [module for module in modules if module.startswith("fedpeft.methods")]
            assert all(module.startswith("fedpeft.methods.common.") for module in of_methods), (name, of_methods)


EXAMPLE_IMPORTS = """
from collections.abc import Sequence
from dataclasses import dataclass
from pydantic import Field
from fedpeft.adapters import LoraOptions
from fedpeft.aggregation import mean_tensors
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions
from fedpeft.methods.common.fedavg import FedAvg
"""


def test_the_example_in_the_contracts_docstring_is_a_method_in_one_file(write_method):
    from helpers.local_clients import make_classifier, make_clients, train_client
    from helpers.replies import is_close

    lines = Method.__doc__.splitlines()
    code = "\n".join(line[8:] for line in lines if line.startswith(" " * 8) or not line.strip())
    write_method("plain_mean", EXAMPLE_IMPORTS + code)
    assert list_methods() == sorted([*PUBLISHED, "plain_mean"])
    kind = find_method("plain_mean")
    method = kind(kind.Options.model_validate({"adapter": {"r": 2}}))
    clients, state = make_clients(method, make_classifier())
    replies = [train_client(method, state, client, model) for client, model in clients]
    after = method.aggregate(state, replies)
    for name, tensor in after.tensors.items():
        assert is_close(tensor, sum(reply.tensors[name].double() for reply in replies) / 3)


def test_a_file_is_imported_when_it_is_asked_for(write_method):
    write_method("broken", "raise RuntimeError('imported')")
    assert "broken" in list_methods()
    assert find_method("fedit") is FedIt
    with pytest.raises(RuntimeError, match="imported"):  # one of ours: the traceback helps its author
        find_method("broken")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("", "none"),
        ("from fedpeft.methods.fedit import FedIt", "none"),
        ("class One(FedAvg): pass\nclass Two(FedAvg): pass", "One, Two"),
        ("class Half(Method): pass", "none"),
    ],
)
def test_a_file_without_exactly_one_method_is_one_line(write_method, text, classes):
    write_method("odd", EXAMPLE_IMPORTS + text)
    with pytest.raises(UserError, match=rf"method 'odd': .*odd\.py must define one method class, received: {classes}$"):
        find_method("odd")


def test_a_file_may_hold_an_abstract_base_beside_its_method(write_method):
    text = "class Base(Method): pass\nclass Whole(Base, FedAvg): pass\nnumber = 3"
    write_method("odd", EXAMPLE_IMPORTS + text)
    assert find_method("odd").__name__ == "Whole"


def test_methods_of_packages_come_after_ours(install):
    install(NamedPoint("zebra", "fedpeft.methods.fedit:FedIt"), NamedPoint("ape", "fedpeft.methods.ditto:Ditto"))
    assert list_methods() == [*PUBLISHED, "ape", "zebra"]
    assert find_method("zebra") is FedIt


def test_an_entry_point_does_not_replace_one_of_ours(install):
    install(NamedPoint("fedit", "fedpeft.methods.ditto:Ditto"), NamedPoint("mine", "fedpeft.methods.ditto:Ditto"))
    assert list_methods() == [*PUBLISHED, "mine"]
    assert find_method("fedit") is FedIt
    assert (list_rivals("fedit"), list_rivals("mine"), list_rivals("ditto")) == (["other-package"], [], [])


def test_an_experiment_says_who_would_replace_one_of_ours(install, experiment_file):
    install(NamedPoint("fedit", "no_such_module:Method"), NamedPoint("hetlora", "no_such_module:Method"))
    notes = load_experiment(experiment_file, ["methods={fedit: {}, mine: {method: fedit}, local: {}}"]).notes
    reason = "package other-package brings a method 'fedit' too; fedpeft's own is used"
    assert notes == tuple(f"{experiment_file}: methods.{label}: {reason}" for label in ("fedit", "mine"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module_of_anybody:Method", "ModuleNotFoundError: No module named 'no_such_module_of_anybody'"),
        ("fedpeft.methods.fedit:NoSuchClass", "AttributeError: .*has no attribute 'NoSuchClass'"),
    ],
)
def test_an_entry_point_that_fails_breaks_itself_alone(install, value, reason):
    install(NamedPoint("bad", value))
    assert list_methods() == [*PUBLISHED, "bad"]
    assert find_method("fedit") is FedIt
    expected = f"method 'bad' of package other-package cannot be imported from {value}: {reason}; repair or uninstall"
    with pytest.raises(UserError, match=expected) as refused:
        find_method("bad")
    assert "\n" not in str(refused.value)


def test_an_entry_point_that_leaves_the_process_is_one_line_too(install, write_method):
    write_method("leaving", "import sys\nsys.exit(0)\n")
    install(NamedPoint("bad", "fedpeft.methods.leaving:Method"))
    with pytest.raises(UserError, match=r"method 'bad' of package other-package cannot be imported .*SystemExit: 0"):
        find_method("bad")


@pytest.mark.parametrize("value", ["fedpeft.methods.fedit:FedIt.__doc__", "fedpeft.methods:GROUP", "pathlib:Path"])
def test_an_entry_point_must_be_a_method(install, value):
    install(NamedPoint("bad", value, package=None))
    with pytest.raises(UserError, match=r"'bad' of package \w.* must be a subclass of fedpeft's Method, received"):
        find_method("bad")


def test_one_name_of_two_packages_is_refused(install):
    install(*(NamedPoint("twice", "fedpeft.methods.fedit:FedIt", package) for package in ("b", "a")))
    assert list_methods() == [*PUBLISHED, "twice"]
    with pytest.raises(UserError, match="'twice' comes from 2 packages: a, b; uninstall all but one"):
        find_method("twice")


def test_an_unknown_name_is_one_line_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown method 'fedi'; known: centralised, ditto, .*zero_shot"):
        find_method("fedi")
    with pytest.raises(UserError, match="unknown method 'common'"):
        find_method("common")


def test_a_program_can_register_its_own(monkeypatch, install):
    monkeypatch.setattr(methods, "_registered", {})
    install(NamedPoint("mine", "fedpeft.methods.ditto:Ditto"))

    class Mine(FedIt):
        pass

    assert register_method("mine")(Mine) is Mine
    assert list_methods() == [*PUBLISHED, "mine"] and find_method("mine") is Mine
    with pytest.raises(UserError, match="'fedit' is a method of fedpeft's own"):
        register_method("fedit")
