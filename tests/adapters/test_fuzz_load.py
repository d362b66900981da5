"""Adapter folders with anything in them: read, or our error on one line, within a bound on memory.

FEDPEFT_FUZZ_EXAMPLES is the number of inputs of each of the three tests.
"""

import copy
import json
import os
import resource
import shutil

import pytest
from helpers.adapter_folders import make_model, read_values, save_adapters
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedpeft.adapters.load import read_adapter
from fedpeft.errors import UserError

EXAMPLES = int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", 100))
MEMORY = 300 * 2**10  # KiB that all inputs together may add to the peak
FUZZ = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

FIELDS = [
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "modules_to_save", "fan_in_fan_out", "layers",
    "positions", "variant", "tied", "experts", "gate", "alpha", "peft_type", "task_type", "megatron_core",
    "megatron_config", "use_dora", "bias",
    "auto_mapping", "layer_replication", "init_lora_weights", "inference_mode", "loftq_config", "runtime_config",
]  # fmt: skip
NAMES = [
    "backbone",
    "encoder",
    "layer",
    "0",
    "1",
    "query",
    "classifier",
    ".*",
    "(a+)+",
    r"\.",
    "(",
    ")",
    "|",
    "$",
    "\x1b",
]
NUMBERS = st.integers(-2, 10**10) | st.floats() | st.just(10**400)
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=8)
    | st.sampled_from(["LORA", "LOREFT", "LORA_EXPERTS", "IA3", "router", "all"])
)
PATTERNS = st.lists(st.sampled_from(NAMES), max_size=12).map(r"\.".join)
VALUES = st.recursive(
    SCALARS | PATTERNS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PATTERNS | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FILES = st.sampled_from([CONFIG, TENSORS])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    saved = {name: save.folder for name, save in save_adapters(folder).items()}
    shutil.copytree(saved["small"], folder / "changed")
    read_within_bounds(saved["small"], make_model())  # what a first call allocates is not the input's
    return saved | {"changed": folder / "changed"}


@pytest.fixture(scope="module")
def model():
    return make_model()


def read_within_bounds(folder, model):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_adapter(folder).attach(copy.deepcopy(model))
    except UserError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@FUZZ
@given(
    kind=st.sampled_from(["lora", "merged", "reft"]),
    values=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1),
)
@example(kind="small", values={"r": 10**9})
@example(kind="small", values={"target_modules": r"backbone\.encoder\.layer\.(0|1)\.(.*)*"})
@example(kind="small", values={"r": 60_000, "rank_pattern": {"query": 60_000}})
def test_any_values_in_the_configuration(kind, values, folders, model):
    source, folder = folders[kind], folders["changed"]
    shutil.copyfile(source / TENSORS, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(read_values(source) | values))
    read_within_bounds(folder, model)


@FUZZ
@given(
    file=st.sampled_from([CONFIG, TENSORS]), content=st.binary(max_size=200) | VALUES.map(json.dumps).map(str.encode)
)
@example(file=CONFIG, content=b"[" * 10_000)
@example(file=TENSORS, content=(2**63 + 1).to_bytes(8, "little"))
def test_any_bytes_in_a_file(file, content, folders, model):
    _copy(folders["small"], folders["changed"])
    (folders["changed"] / file).write_bytes(content)
    read_within_bounds(folders["changed"], model)


@FUZZ
@given(
    file=FILES,
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
    length=st.floats(0, 1) | st.just(1.0),
)
def test_a_file_that_is_changed_or_cut(file, changes, length, folders, model):
    """A place is a fraction of the file, squared: most of a tensor file's meaning is in its header."""
    _copy(folders["reft"], folders["changed"])
    content = bytearray((folders["reft"] / file).read_bytes())
    size = len(content)
    for place, part in changes:
        start = int(place**2 * size)
        content[start : start + len(part)] = part
    (folders["changed"] / file).write_bytes(content[: int(length * size)])
    read_within_bounds(folders["changed"], model)


def _copy(source, folder):
    for name in (CONFIG, TENSORS):
        shutil.copyfile(source / name, folder / name)
