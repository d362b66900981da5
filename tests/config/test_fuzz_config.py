"""Experiment files as a slip of the hand or a stranger writes them: a checked experiment or one line, nothing else.

FEDPEFT_FUZZ_EXAMPLES is the number of inputs of each of the four tests.
"""

import copy
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedpeft.config import parse_experiment
from fedpeft.config.yaml_reader import parse_yaml
from fedpeft.errors import LIMIT, UserError

EXAMPLES = int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", 100))
ROOT = Path(__file__).parents[2]
TEXTS = [
    re.sub(r" *#.*", "", file.read_text())
    for file in (
        ROOT / "src/fedpeft/experiment.yaml",
        *sorted(ROOT.glob("papers/*.yaml")),
        *sorted(ROOT.glob("benchmarks/experiments/*.yaml")),
    )
]
RAW = [yaml.safe_load(text) for text in TEXTS]
PIECES = (
    "&a [*a]", "*a", "<<: *a", "!!int ''", "!!timestamp x", "!!python/object:os.system {}", "!!binary =", "9" * 4400,
    "2024-01-01", "0x_", "1e999", ".nan", "-.inf", "1:2:3", "[" * 500, "{a: " * 500, "? [a]", "? ", "%YAML 9.9\n---\n",
    '"\\U00110000"', '"\\ud800"', '"\\x1b[2J"', "\t", "\x00", "\u2028", "package:", "~nobody", "a" * 300, "|", ">-",
    "'", '"', "#", "---\n", "...\n", ": ", "- ", ", ", "null", "~", "yes", "\n", "  ", "methods:", "lr: []", "lr: [[]]",
)  # fmt: skip
fuzz = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**98, 10**99), st.floats(), st.text(max_size=20),
    st.sampled_from(("", " ", "package:", "~nobody/x", "a" * 300, "/dev/zero", "é" * 200, "all", "../..")),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def accept_or_refuse(text_or_raw, overrides=()):
    """Passes where the input is an experiment or one line says why it is none."""
    try:
        raw = parse_yaml(text_or_raw, "e.yaml") if isinstance(text_or_raw, str) else text_or_raw
        parse_experiment(raw, list(overrides), "e.yaml")
    except UserError as error:
        line = str(error)
        assert line and line.isprintable() and len(line) <= LIMIT
        return line
    return None


@st.composite
def mutated_texts(draw):
    """An example file with some pieces put in, lines doubled, moved, or left out, and stretches cut."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        line = lines[at]
        column = draw(st.integers(0, len(line)))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=5))
        lines[at : at + 1] = draw(
            st.sampled_from(
                (
                    [line, line],
                    [lines[other], line],
                    [line[:column] + piece + line[column:]],
                    [line.split(":")[0] + ": " + piece],
                    [line[:column]],
                    ["  " + line],
                    [line.lstrip()],
                    [""],
                )
            )
        )
    return "\n".join(lines)


def list_places(node):
    """Every (container, key) inside a tree of dicts and lists."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from list_places(value)


@st.composite
def mutated_settings(draw):
    """An example's settings with some values, keys or whole groups replaced by anything of YAML's types."""
    raw = copy.deepcopy(draw(st.sampled_from(RAW)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(list_places(raw))
        if not places:
            break
        node, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "remove", "add")))
        if action == "remove":
            del node[key]
        elif action == "replace":
            node[key] = draw(values)
        elif isinstance(node, list):
            node.append(draw(values))
        else:
            node[str(key) + draw(st.text(max_size=2))] = draw(values)
    return raw


@fuzz
@given(mutated_texts())
@example("a: &a [x]\nb: *a")
@example("a: !!int ''")
@example(f"seed: {'9' * 4400}")
@example("[" * 500)
@example('name: "\\U00110000"')
def test_a_mutated_file(text):
    accept_or_refuse(text)


@fuzz
@given(st.text(alphabet=st.sampled_from("ab01:-?!&*[]{},#|>'\"%@~ \t\n\\.xe_<="), max_size=60))
@example("")
@example("%YAML " + "1" * 5000 + ".1\n--- a")
def test_any_text_of_yaml_signs(text):
    accept_or_refuse(text)


@fuzz
@given(mutated_settings())
def test_mutated_settings(raw):
    accept_or_refuse(raw)


KEYS = ("name", "seed", "model.name", "model.max_length", "model.device_map", "task", "task.source", "task.preset",
        "task.kind", "task.template", "task.choices", "task.labels", "task.metric", "partition", "partition.kind",
        "training.rounds", "training.norm_limit", "resources", "methods", "methods.fedit.lr", "methods.fedit.adapter",
        "methods.fedreft.adapter.positions", "methods.fedreft.adapter.layers", "cross_evaluation", "engine",
        "prefix_cache", "workers")  # fmt: skip


@fuzz
@given(st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=12), values | st.sampled_from(PIECES)), max_size=3))
@example([("none", "- ")])
@example([("methods.fedit.bool", "~")])
def test_overrides(pairs):
    overrides = [f"{key}={value if isinstance(value, str) else yaml.safe_dump(value)}" for key, value in pairs]
    accept_or_refuse(copy.deepcopy(RAW[0]), overrides)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw["name"])
def test_the_files_themselves_are_experiments(raw):
    assert accept_or_refuse(copy.deepcopy(raw)) is None
