"""The ClientApp of the engine `flower-sim`: any of Ray's processes answers for any client of the experiment."""

import json
import logging
from functools import lru_cache
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpeft.engines.flower.content import unwrap, wrap
from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.engines.flower.responder import respond
from fedpeft.engines.local import LocalEngine

log = logging.getLogger(__name__)
app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """The answer to a message, which says why where there is none."""
    try:
        header, parts = unpack(unwrap(message.content))
        data = respond(_make_engine(json.dumps(header["settings"], sort_keys=True)), header, parts)
    except Exception as error:  # the boundary between a client and the run: Flower would end the process
        log.exception("a request failed")
        data = pack({"error": f"{type(error).__name__}: {error}"})
    return Message(wrap(data), reply_to=message)


@lru_cache(maxsize=1)  # a process serves one run
def _make_engine(settings: str) -> LocalEngine:
    from fedpeft.runs.build import build
    from fedpeft.runs.spec import RunSpec

    fields: dict[str, Any] = json.loads(settings)
    fields["experiment"] |= {"engine": "local", "workers": 1}
    engine = build(RunSpec.parse(fields, "the run's settings")).engine
    assert isinstance(engine, LocalEngine)
    return engine
