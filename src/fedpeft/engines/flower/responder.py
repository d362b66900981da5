"""Answers requests where the clients are, with a local engine: what travels is encoded, what is computed is the same.

A request's first part is a message; a second, where there is one, the client's state, for clients that keep none
between requests. An answer to `train` gives the state back in the same way.
"""

from collections.abc import Sequence
from typing import Any

from fedpeft.engines.flower.exchange import decode_state, encode_state
from fedpeft.engines.flower.protocol import pack
from fedpeft.engines.local import LocalEngine
from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, decode, encode


def respond(engine: LocalEngine, header: dict[str, Any], parts: Sequence[bytes]) -> bytes:
    """The answer to one request of `train`, `evaluate` or `cross`, with the states that come with it.

    Raises ValueError for a request that is none.
    """
    message = decode(parts[0])
    if message.client not in engine.by_id:
        raise ValueError(f"client {message.client!r} is not here")
    state = decode_state(parts[1]) if len(parts) > 1 else ClientState()
    engine.restore(message.round, {message.client: vars(state)})
    if header["ask"] == "train":
        return train(engine, message, header["deadline"], header["round_deadline"])
    if header["ask"] == "evaluate":
        return pack({"scores": engine.evaluate([message], header["split"], header["model"])[message.client]})
    if header["ask"] == "cross":
        return pack({"scores": engine.evaluate_elsewhere(message, header["model"], header["clients"], header["split"])})
    raise ValueError(f"nothing is known of {str(header['ask'])[:40]!r}")


def train(engine: LocalEngine, message: Message, deadline: float | None, round_deadline: float | None) -> bytes:
    """The answer with a client's reply and its state after the round, or with the reason why there is none."""
    (outcome,) = engine.train([message], deadline, round_deadline)
    header = {"failure": outcome.failure, "seconds": outcome.seconds}
    if outcome.reply is None:
        return pack(header)
    state = engine.save(message.round)[message.client]
    return pack(header, [encode(outcome.reply), encode_state(message.client, state)])
