"""Requests and answers as bytes."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedpeft.engines.flower.protocol import pack, unpack


def test_header_and_parts_come_back():
    header, parts = unpack(pack({"ask": "train", "deadline": None, "seconds": 0.1}, [b"", b"\0\xff"]))
    assert (header["ask"], header["deadline"], header["seconds"], parts) == ("train", None, 0.1, [b"", b"\0\xff"])


def forge(text):
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a request"),
        (b"\xff\xff\xff\xff", "a header of 4294967295 bytes"),
        (forge(b"[" * 100_000), "not a request"),
        (forge(b"[]"), "version None"),
        (forge(b'{"version": 2, "parts": []}'), "version 2 of the protocol, this is 1"),
        (forge(b'{"version": 1}'), "how long its parts are"),
        (forge(b'{"version": 1, "parts": [-1, 1]}'), "not those that its header states"),
        (forge(b'{"version": 1, "parts": [9]}'), "not those that its header states"),
        (forge(b'{"version": 1, "parts": [true]}') + b"x", "not those that its header states"),
    ],
)
def test_other_bytes_are_refused_in_one_line(data, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        unpack(data)
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=200))
@example(pack({"ask": "train"}, [b"x"])[:-1])
def test_any_bytes_are_read_or_refused(data):
    try:
        header, parts = unpack(data)
    except ValueError:
        return
    assert isinstance(header, dict) and all(isinstance(part, bytes) for part in parts)
