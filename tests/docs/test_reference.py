"""Pages that are made from the program: whole, and never stale."""

import re
import sys
from pathlib import Path

import pytest

from fedpeft.config import Experiment
from fedpeft.methods import find_method, list_built_in

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import fedpeft_reference

    yield fedpeft_reference
    sys.modules.pop("fedpeft_reference")


def test_every_key_of_the_experiment_file_is_there_with_its_description(reference):
    text = "\n".join(reference.make_keys())
    for name, field in Experiment.model_fields.items():
        model = reference._find_model(field)
        assert f"| `{name}` |" in text or f"## {name}" in text
        for key, inner in (model.model_fields if model else {}).items():
            assert f"| `{key}` |" in text
            assert inner.description, f"{name}.{key} says nowhere what it is"


def test_every_option_of_every_method_is_there(reference):
    text = "\n".join(reference.make_methods())
    for name in list_built_in():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        missing = [key for key in find_method(name).Options.model_fields if f"| `{key}` |" not in section]
        assert not missing, (name, missing)


def test_every_command_is_there(reference):
    from fedpeft.cli import COMMANDS

    text = "\n".join(reference.make_commands())
    assert all(f"## {command.__name__}\n" in text for command in COMMANDS)
    assert "`--methods NAME[,NAME]`" in text and "\\\\" not in text


def test_every_score_that_a_page_names_is_measured(reference):
    scores = reference.read_scores()
    names = {name for page in DOCS.glob("*.md") for name in re.findall(r"\{\{ (\w+) \}\}", page.read_text())}
    assert names and names <= scores.keys()
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", scores["reviews_fedit"])


def test_every_method_has_its_paper(reference):
    lines = {line.split("`")[1]: line for line in reference.make_paper_table() if "`" in line}
    assert list(lines) == list_built_in()
    assert "https://arxiv.org/abs/2508.20295" in lines["fedreft"] and "2510.14054" in lines["fedhft"]


def test_links_between_files_lead_somewhere():
    root = DOCS.parent
    for page in [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md", *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            is_local = "://" not in link and not link.startswith("_generated/")
            assert not is_local or (page.parent / link).exists(), (page.name, link)


def test_the_picture_is_of_the_results_that_are_there(reference, monkeypatch):
    import picture

    assert picture.FILE.read_text(encoding="utf-8") == picture.make_picture()  # python docs/_ext/picture.py
