"""Bytes of any kind are a message that keeps to the schema, or ValueError in one short line; memory stays bounded."""

import json
import os
import random
import struct
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fedpeft.federation.message import Message, decode, encode
from fedpeft.federation.schema import find_fault

FUZZ = settings(
    max_examples=int(os.environ.get("FEDPEFT_FUZZ_EXAMPLES", "100")),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MUTANTS = 25  # damaged messages of one example
TENSORS = {
    "m.lora_A.weight": torch.arange(12.0).reshape(3, 4),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "bits": torch.tensor([1, 0], dtype=torch.uint8),
}
WHOLE = encode(Message("site-1", 3, TENSORS, {"examples": 4, "loss": 0.25}))
BLOB = save(TENSORS)


def build(header: bytes, blob: bytes = BLOB) -> bytes:
    return struct.pack("<Q", len(header)) + header + blob


def build_header(**changes) -> bytes:
    fields = {"format": 1, "client": "c", "round": 1, "scalars": {}} | changes
    return json.dumps(fields).encode("utf-8", "surrogatepass")


def build_blob(layout, data=b"") -> bytes:
    header = layout if isinstance(layout, bytes) else json.dumps(layout).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data


def check(data: bytes) -> None:
    try:
        message = decode(data)
    except ValueError as error:
        text = str(error)
        assert type(error) is ValueError and text.startswith("Not a fedpeft message (")
        assert len(text) < 500 and text.isprintable()
    else:
        assert find_fault(message.client, message.round, message.tensors, message.scalars) is None
        again = decode(encode(message))
        assert (again.client, again.round, again.scalars) == (message.client, message.round, message.scalars)


def mutate(draw: random.Random) -> bytes:
    """The whole message with some bytes changed, and at times a part cut out, doubled or swapped for noise."""
    data = bytearray(WHOLE)
    for _ in range(draw.randrange(1, 9)):
        data[draw.randrange(len(data))] = draw.choice((0, 1, 255, ord('"'), ord("{"), draw.randrange(256)))
    if draw.random() < 0.4:
        start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        data[start:end] = draw.choice((b"", bytes(data[start:end]) * 2, draw.randbytes(draw.randrange(9))))
    return bytes(data)


text = st.text(st.sampled_from("abc\x00\x1b\n\ud800\u202eé"), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(st.integers(0, 2**32))
def test_damaged_bytes(seed):
    draw = random.Random(seed)
    for _ in range(MUTANTS):
        check(mutate(draw))


@FUZZ
@given(st.binary(max_size=200))
def test_bytes_of_any_kind(data):
    check(data)
    check(build(data))
    check(build(build_header(), data))


@FUZZ
@given(st.dictionaries(st.sampled_from(["format", "client", "round", "scalars", "x"]), json_values))
@example({"client": None})
@example({"round": True})
@example({"round": float("nan")})
@example({"round": -1})
@example({"format": True})
@example({"client": "\ud800"})
@example({"scalars": {"a": {"b": 1}}})
@example({"scalars": [["a", 1]]})
@example({"scalars": {"loss": 1e400}})
def test_headers_of_any_values(changes):
    check(build(build_header(**changes)))


@FUZZ
@given(
    st.dictionaries(
        text,
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "U8", "I64", "F8_E5M2", "BOOL", "C64", "F4", "X", 3]),
                "shape": st.lists(st.integers(-1, 5) | st.sampled_from([2**20, 2**40, 2**63]), max_size=4)
                | json_values,
                "data_offsets": st.lists(st.integers(0, 64), max_size=3) | json_values,
            }
        )
        | json_values,
        max_size=3,
    ),
    st.binary(max_size=64),
)
@example({"w": {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}, b"")
@example({"w": {"dtype": "F32", "shape": [2**63, 2**63, 4], "data_offsets": [0, 0]}}, b"")
@example({"": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, b"")
def test_layouts_of_any_tensors(layout, data):
    check(build(build_header(), build_blob(layout, data)))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"format":1,"scalars":['])
@pytest.mark.parametrize("depth", [500, 5_000, 20_000])
def test_deep_nesting_is_refused(opening, depth):
    check(build(opening * depth))
    check(build(build_header(), build_blob(opening * depth)))


@pytest.mark.parametrize(
    "data",
    [
        build(b"[" + b"[]," * 2_000_000 + b"[]]"),
        build(build_header(scalars={"s": "x" * 5_000_000})),
        build(build_header(scalars={f"s{i}": i for i in range(100_000)})),
        build(build_header(), build_blob({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
                                          for i in range(100_000)})),
        struct.pack("<Q", 2**63) + b"x" * 100,
        build(build_header(), struct.pack("<Q", 2**40) + b"{}"),
    ],
    ids=["nested lists", "long text", "many scalars", "many tensors", "header past the end", "layout past the end"],
)  # fmt: skip
def test_what_would_take_many_times_its_size_is_refused_before_it_is_read(data):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="Not a fedpeft message"):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data) + 2**20
