"""Run folders that are damaged or a stranger's: their files are read or refused in one line, and nothing else happens.

FEDPEFT_FUZZ_EXAMPLES is the number of inputs of each of the five tests.
"""

import copy
import json
import os

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fedpeft.config import load_experiment
from fedpeft.errors import LIMIT, UserError
from fedpeft.federation.state_tree import flatten
from fedpeft.methods.common.cumulative_delta import CumulativeState
from fedpeft.runs.compare_results import summarise_method
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.folder import CHECKPOINT, RunFolder
from fedpeft.runs.log_summary import read_log
from fedpeft.runs.run_files import LOGS
from fedpeft.runs.spec import RunSpec

EXAMPLES = int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", 100))
fuzz = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just("\x1b[2J"), st.just("../x"),
    st.sampled_from(({"@tensor": "0"}, {"@tensor": "9"}, {"@tuple": 3}, {"@record": None}, 10**400, "9" * 5000)),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def list_places(tree, place=()):
    """The path to every value of a tree of dicts and lists."""
    yield place
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from list_places(value, (*place, key))


def change(tree, data):
    """The tree with one value in another's place, or without one."""
    tree = {"": copy.deepcopy(tree)}
    *parents, last = ("", *data.draw(st.sampled_from(list(list_places(tree[""])))))
    node = tree
    for key in parents:
        node = node[key]
    if data.draw(st.booleans()) and isinstance(node, dict) and node is not tree:
        del node[last]
    else:
        node[last] = data.draw(values)
    return tree[""]


def damage(content, data):
    """The bytes with some flipped, left out or doubled."""
    start = data.draw(st.integers(0, len(content)))
    end = min(len(content), start + data.draw(st.integers(0, 9)))
    pieces = (b"", b"\0", b"\xff\xfe", b"9", b"{", content[start:end] * 2)
    return content[:start] + data.draw(st.sampled_from(pieces)) + content[end:]


def read_or_refuse(read):
    """Passes where what is there is read, or one line says why not; returns what was read."""
    try:
        return read()
    except UserError as error:
        assert len(str(error)) <= LIMIT and str(error).isprintable()
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    for log in LOGS:
        (path / log).write_text("")
    return RunFolder(path)


AVERAGES = {"by_client": 0.5, "worst_client": 0.1, "loss": 1.0}
RESULT = {
    "label": "fedit", "method": "fedit", "metric": "accuracy", "options": {"lr": 0.1}, "seed": 0, "rounds": 2,
    "clients": ["a", "b"], "test": {"deployed": AVERAGES, "trained": AVERAGES}, "validation": {"2": AVERAGES},
    "adapter_parameters": 8, "head_parameters": 2, "bytes_down": 10, "bytes_up": 10.5, "quarantined": 0,
    "peak_memory_mib": 10.0, "seconds": {"train": 1.0, "aggregate": 1.0, "evaluate": 1.0, "total": 3.0},
    "cross": {"a": {"a": 1.0, "b": 0.5}, "b": {"a": 1.0, "b": 0.5}},
    "left_out": {"a": {"rounds": [1], "reason": "it failed"}},
    "deployment": {"rule": "validation", "choices": {"a": "received"}, "validation": {"deployed": AVERAGES}},
}  # fmt: skip


@fuzz
@given(st.data())
def test_results(folder, data):
    text = json.dumps(change(RESULT, data)).encode()
    (folder.path / "result.json").write_bytes(damage(text, data) if data.draw(st.booleans()) else text)
    result = read_or_refuse(lambda: folder.result)
    if result is not None:
        summarise_method(result["label"], [result, result])
        assert json.dumps(result["label"] + result["metric"] + "".join(result["clients"])).isprintable()


LINES = [
    {"round": 1, "split": "train", "client": "a", "loss": 0.5, "bytes_down": 10, "bytes_up": 9},
    {"round": 1, "split": "train", "client": "b", "bytes_down": 10, "bytes_up": 0, "quarantined": "it failed"},
    {"round": 1, "split": "validation", "model": "received", "client": "a", "accuracy": 0.5, "examples": 4},
]


@fuzz
@given(st.data())
@example(data=None)
def test_logs(folder, data):
    lines = [[]] if data is None else change(LINES, data)
    text = "\n".join(map(json.dumps, lines if isinstance(lines, list) else [lines])).encode()
    if data is not None and data.draw(st.booleans()):
        text = damage(text, data)
    (folder.path / "metrics.jsonl").write_bytes(text)
    read_or_refuse(lambda: read_log(folder, "accuracy", "validation"))


STATE = CumulativeState({"w": torch.ones(2)}, {"a": {"w": [2]}}, {"m": (torch.ones(2, 1), torch.ones(1, 2))})
TREE = {
    "round": 1,
    "seconds": {"train": 1.0, "aggregate": 1.0, "evaluate": 1.0, "total": 3.0},
    "state": STATE,
    "clients": {"a": {"trained": {"w": torch.zeros(2)}, "kept": {}}, "b": {"trained": None, "kept": {}}},
    "logs": {"metrics.jsonl": 0, "timings.jsonl": 0},
    "settings": {"base": "/", "experiment": {"methods": {"flora": {}}}},
    "fingerprint": "0",
}


class StubFederation:
    def __init__(self):
        self.state, self.round = STATE, 0


@fuzz
@given(st.data())
def test_checkpoints(folder, data):
    """Their structure is a stranger's, and has no digest."""
    structure, tensors = flatten(TREE)
    text = json.dumps(change(structure, data))
    content = save(tensors, metadata={"tree": text})
    (folder.path / CHECKPOINT).write_bytes(damage(content, data) if data.draw(st.booleans()) else content)
    for log in LOGS:
        (folder.path / log).write_text("")
    saved = read_or_refuse(folder.load_checkpoint)
    if saved is not None:
        federation = StubFederation()

        def restore():
            try:
                saved.restore_server(federation)
            except ValueError as error:
                raise folder.make_checkpoint_error(str(error)) from error

        read_or_refuse(restore)
        assert isinstance(federation.state, CumulativeState) and federation.round in (0, saved.round)
        read_or_refuse(lambda: folder.cut_logs(saved))
    assert all((folder.path / log).read_bytes() == b"" for log in LOGS)


SAW = Fingerprint.model_validate(
    {"labels": ["n", "p"], "clients": {"a": {"examples": {"train": 2}, "digest": "0"}}, "model": "0", "tokenizer": None}
)


@fuzz
@given(st.data())
def test_fingerprints(folder, data):
    text = json.dumps(change(SAW.model_dump(), data)).encode()
    (folder.path / "fingerprint.json").write_bytes(damage(text, data) if data.draw(st.booleans()) else text)
    read_or_refuse(lambda: folder.require_fingerprint(SAW))


@pytest.fixture
def run_settings(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file, ["methods={fedit: {lr: 0.1}}"])
    return json.loads(json.dumps(RunSpec(experiment, "fedit", 0, None, tmp_path).as_dict()))


@fuzz
@given(st.data())
def test_settings(folder, run_settings, data):
    text = yaml.safe_dump(change(run_settings, data)).encode()
    (folder.path / "experiment.yaml").write_bytes(damage(text, data) if data.draw(st.booleans()) else text)
    read = read_or_refuse(lambda: RunSpec.read(folder))
    assert read is None or list(read.experiment.methods) == [read.label]
