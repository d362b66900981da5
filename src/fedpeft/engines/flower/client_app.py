"""The ClientApp of every experiment: hands each message to the site's warm worker and its answer back.

Flower starts a fresh process for every message, so this one imports neither torch nor anything that does. Where the
worker listens is the node's own setting: `flower-supernode --node-config 'worker="/path/to/socket"'`.
"""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpeft.engines.flower.content import unwrap, wrap
from fedpeft.engines.flower.frames import connect, receive_frame, send_frame
from fedpeft.engines.flower.protocol import pack

WORKER = "worker"  # the node's setting
app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """The worker's answer to a message; where there is none, an answer that says why."""
    return Message(
        wrap(ask_worker(str(context.node_config.get(WORKER, "")), unwrap(message.content))), reply_to=message
    )


def ask_worker(path: str, request: bytes) -> bytes:
    """What the worker at a socket answers to a request; an answer with an `error` in one line where none comes."""
    if not path:
        return pack({"error": f"the node's --node-config names no {WORKER}: the path of its worker's socket"})
    try:
        with connect(Path(path)) as connection:
            send_frame(connection, request)
            answer = receive_frame(connection)
    except OSError as error:
        return pack({"error": _explain(path, error)})
    if answer is None:
        return pack({"error": f"the site's worker at {path} ended while it worked on this message"})
    return answer


def _explain(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"the site's worker is not there: nobody listens at {path}; start it with `fedpeft site run site.yaml`"
    if isinstance(error, PermissionError):
        return f"the site's worker at {path} belongs to another user than the node: start both as one user"
    return f"the site's worker at {path} did not answer: {error.strerror or error}"
