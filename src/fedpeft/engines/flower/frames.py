"""Length-prefixed frames of bytes over a local socket: 8 bytes little-endian length, then as many bytes. No torch."""

import os
import socket
import struct
from pathlib import Path

MOST_FRAME_BYTES = 2**34  # far above any message: a length that a peer may state at all
_LENGTH = struct.Struct("<Q")
_CHUNK = 2**20  # bytes are taken as they come, so that a length alone costs no memory
_MOST_PATH_BYTES = 107  # of a Unix socket's address in Linux


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Sends one frame. Raises OSError where the peer is gone."""
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(connection: socket.socket, limit: int = MOST_FRAME_BYTES) -> bytes | None:
    """The next frame; None where the peer has closed the connection between two.

    Raises ConnectionError where it ends within a frame or states a length above `limit`, OSError as sockets do.
    """
    head = _receive(connection, _LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise ConnectionError("the connection ended within a frame's length")
    (length,) = _LENGTH.unpack(head)
    if length > limit:
        raise ConnectionError(f"a frame of {length} bytes, the most is {limit}")
    data = _receive(connection, length)
    if len(data) < length:
        raise ConnectionError(f"the connection ended after {len(data)} of a frame's {length} bytes")
    return data


def _receive(connection: socket.socket, count: int) -> bytes:
    """`count` bytes, fewer where the peer closes the connection before."""
    received = bytearray()
    while len(received) < count:
        chunk = connection.recv(min(_CHUNK, count - len(received)))
        if not chunk:
            break
        received += chunk
    return bytes(received)


def listen(path: Path) -> socket.socket:
    """A Unix socket that listens at `path`, for this user alone; one that a dead process left there is replaced.

    Raises OSError where it cannot be made, and FileExistsError where a living process or something else has it.
    """
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise OSError(f"a socket's path has at most {_MOST_PATH_BYTES} bytes, received {path}")
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise FileExistsError(f"{path} is no socket")
    if path.exists():
        _remove_stale(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # before anybody could connect
    try:
        server.bind(str(path))
    except OSError:
        server.close()
        raise
    finally:
        os.umask(mask)
    server.listen()
    return server


def _remove_stale(path: Path) -> None:
    try:
        connect(path).close()
    except ConnectionRefusedError:
        path.unlink()
    else:
        raise FileExistsError(f"another process listens at {path}")


def connect(path: Path) -> socket.socket:
    """A connection to the Unix socket at `path`. Raises OSError where nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection
