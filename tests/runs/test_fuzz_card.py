"""Cards of exported adapters with anything in them: read, or our error on one line.

FEDPEFT_FUZZ_EXAMPLES is the number of inputs.
"""

import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from fedpeft.adapters.export import CARD
from fedpeft.errors import UserError
from fedpeft.runs.export import get_adapter_folder, read_card

EXAMPLES = int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", 200))
ORDINARY = {
    "model": {"name": "tiny", "pooling": "mean", "max_length": 16, "device_map": None},
    "task": {"source": "data.jsonl", "kind": "classification", "labels": ["no", "yes"]},
    "labels": ["no", "yes"],
}
KEYS = ["model", "task", "labels", "name", "source", "kind", "preset", "template", "metric", "device", "\x1b[2J"]
SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.floats() | st.text(max_size=6) | st.sampled_from(KEYS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
PLACES = st.sampled_from([(group, key) for group in ("model", "task") for key in KEYS])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    folder = get_adapter_folder(run, "apple")
    folder.mkdir(parents=True)
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        (folder / name).touch()
    return run


def read(run, content):
    (get_adapter_folder(run, "apple") / CARD).write_bytes(content)
    try:
        read_card(run, "apple")
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 500


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
@given(
    changes=st.dictionaries(PLACES, VALUES, min_size=1, max_size=3),
    content=st.none() | VALUES.map(json.dumps).map(str.encode) | st.binary(max_size=60),
)
@example(changes={}, content=b"[" * 100_000)
@example(changes={("task", "source"): []}, content=None)
def test_any_card_is_read_or_one_line(changes, content, run):
    card = json.loads(json.dumps(ORDINARY))
    for (group, key), value in changes.items():
        card[group][key] = value
    read(run, json.dumps(card).encode() if content is None else content)


def test_the_ordinary_card_is_read(run):
    (get_adapter_folder(run, "apple") / CARD).write_text(json.dumps(ORDINARY))
    assert read_card(run, "apple").labels == ["no", "yes"]
