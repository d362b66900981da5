"""Answers requests where the clients are, with a local engine: what travels is encoded, what is computed is equal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedpeft.engines.flower.exchange import decode_state, encode_state
from fedpeft.engines.flower.protocol import pack
from fedpeft.engines.local import LocalEngine
from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, decode, encode


@dataclass(frozen=True)
class Response:
    """The header and the parts of an answer; the client's state after a round, None where none ended well."""

    header: dict[str, Any]
    parts: Sequence[bytes] = ()
    state: ClientState | None = None


def respond(engine: LocalEngine, header: dict[str, Any], parts: Sequence[bytes]) -> bytes:
    """The answer to one request for a client that keeps no state between requests: it comes and goes with them.

    The first part is a message, the second the state. Raises ValueError for a request that is none.
    """
    message = decode(parts[0])
    response = serve_request(engine, header, message, decode_state(parts[1]))
    states = [] if response.state is None else [encode_state(message.client, response.state)]
    return pack(response.header, [*response.parts, *states])


def serve_request(engine: LocalEngine, header: dict[str, Any], message: Message, state: ClientState) -> Response:
    """What a request of `train`, `evaluate` or `cross` comes to for a client in this state.

    Raises ValueError for a request that is none.
    """
    if message.client not in engine.by_id:
        raise ValueError(f"client {message.client!r} is not here")
    engine.restore(message.round, {message.client: vars(state)})
    if header["ask"] == "train":
        return _train(engine, message, header["deadline"], header["round_deadline"])
    if header["ask"] == "evaluate":
        scores = engine.evaluate([message], header["split"], header["model"])
        return Response({"scores": scores.get(message.client), "overdue": message.client not in scores})
    if header["ask"] == "cross":
        scores = engine.evaluate_elsewhere(message, header["model"], header["clients"], header["split"])
        return Response({"scores": scores})
    raise ValueError(f"nothing is known of {str(header['ask'])[:40]!r}")


def _train(engine: LocalEngine, message: Message, deadline: float | None, round_deadline: float | None) -> Response:
    (outcome,) = engine.train([message], deadline, round_deadline)
    header = {"failure": outcome.failure, "seconds": outcome.seconds}
    if outcome.reply is None:
        return Response(header)
    return Response(header, [encode(outcome.reply)], engine.save(message.round)[message.client])
