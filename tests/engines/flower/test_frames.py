"""Frames: each whole or a reason why not; sockets for this user alone."""

import os
import socket
import stat
import struct
import threading

import pytest

from fedpeft.engines.flower.frames import connect, listen, receive_frame, send_frame


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_frames_come_back_in_their_order(pair):
    frames = [b"", b"one", os.urandom(3 << 20)]
    sender = threading.Thread(target=lambda: [send_frame(pair[0], frame) for frame in frames] and pair[0].close())
    sender.start()
    assert [receive_frame(pair[1]) for _ in frames] == frames
    assert receive_frame(pair[1]) is None
    sender.join()


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"\x05\0\0", "ended within a frame's length"),
        (struct.pack("<Q", 10) + b"four", "after 4 of a frame's 10 bytes"),
        (struct.pack("<Q", 2**63), "the most is"),
    ],
)
def test_what_is_no_frame_is_said(pair, sent, problem):
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(ConnectionError, match=problem):
        receive_frame(pair[1])


def test_a_socket_is_for_this_user_alone_and_replaces_that_of_a_dead_process(tmp_path):
    path = tmp_path / "s"
    listen(path).close()  # as a killed process leaves it
    with listen(path) as server, connect(path) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        accepted, _ = server.accept()
        with accepted:
            send_frame(client, b"here")
            assert receive_frame(accepted) == b"here"


def test_nothing_that_lives_or_is_no_socket_is_replaced(tmp_path):
    path, file, link = tmp_path / "s", tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(path)
    with listen(path):
        for taken, problem in ((path, "another process listens"), (file, "is no socket"), (link, "is no socket")):
            with pytest.raises(FileExistsError, match=problem):
                listen(taken)
    assert file.read_text() == "mine"
    with pytest.raises(OSError, match="at most 107 bytes"):
        listen(tmp_path / ("x" * 120))
