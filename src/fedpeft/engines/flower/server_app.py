"""The ServerApp of every experiment: lends Flower's Grid to the process of the run, over a local socket.

`fedpeft run` keeps the run's folder, its checkpoints and its display; what Flower starts for it is this relay, which
imports no torch. Three requests, each with one answer: `nodes`, `push` and `pull`. It ends when the run's process does.
"""

import os
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedpeft.engines.flower.content import unwrap, wrap
from fedpeft.engines.flower.frames import connect, receive_frame, send_frame
from fedpeft.engines.flower.protocol import pack, unpack

SOCKET = "socket"  # the run's setting
RELAY = "FEDPEFT_RELAY"  # in a simulation, whose process is the run's own child, the environment says it
QUERY = "query"  # the one type of our messages
app = ServerApp()


@app.main()
def relay(grid: Grid, context: Context) -> None:
    """Answers the requests of the run's process until it closes the connection."""
    socket = str(context.run_config.get(SOCKET) or os.environ[RELAY])
    with connect(Path(socket)) as connection:
        while (request := receive_frame(connection)) is not None:
            header, parts = unpack(request)
            send_frame(connection, serve(grid, header, parts))


def serve(grid: Grid, header: dict[str, Any], parts: list[bytes]) -> bytes:
    """The answer to one request; what Flower raises is an answer's `error`."""
    try:
        if header["ask"] == "nodes":
            return pack({"nodes": [str(node) for node in grid.get_node_ids()]})
        if header["ask"] == "push":
            content = [wrap(part) for part in parts]
            messages = [
                Message(record, int(node), QUERY, ttl=header["ttl"])
                for record, node in zip(content, header["nodes"], strict=True)
            ]
            return pack({"ids": list(grid.push_messages(messages))})
        return _pull(grid, header["ids"])
    except Exception as error:  # the boundary between Flower and the run
        return pack({"error": f"{type(error).__name__}: {error}"})


def _pull(grid: Grid, ids: list[str]) -> bytes:
    """The answers that have come: `answered` names the messages, `failures` why one has none, by message."""
    answered, parts, failures = [], [], {}
    for reply in grid.pull_messages(ids):
        message = reply.metadata.reply_to_message_id  # the sender of an error may be the SuperLink itself
        if reply.has_error():
            failures[message] = f"{reply.error.reason or 'no reason given'} (Flower's error {reply.error.code})"
            continue
        try:
            parts.append(unwrap(reply.content))
        except ValueError as error:
            failures[message] = str(error)
        else:
            answered.append(message)
    return pack({"answered": answered, "failures": failures}, parts)
