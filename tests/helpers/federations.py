"""Federations without a model: what each client answers is a function of the message it is sent."""

import torch

from fedpeft.engines.base import Outcome
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Reply
from fedpeft.federation.method import Method, MethodOptions
from fedpeft.federation.training_config import TrainingConfig

EXAMPLES = 5  # of every client
SHAPE = (4,)


class Mean(Method):
    """The state is {"w": (4,)}, and the mean of the replies the next one."""

    def start(self, info, seed):
        return {"w": torch.zeros(SHAPE)}

    def send(self, state, client):
        return state

    def aggregate(self, state, replies):
        return {"w": torch.stack([reply.tensors["w"] for reply in replies]).mean(0)}


class ScriptedEngine:
    """`answer(message)` returns the outcomes of one client, a list."""

    def __init__(self, answer):
        self.answer, self.messages = answer, []

    def train(self, messages, deadline=None, round_deadline=None):
        self.messages = messages
        for message in messages:
            yield from self.answer(message)


def reply_to(message, value=1.0, **scalars):
    """A well-formed reply: every value sent, plus `value`."""
    tensors = {name: tensor + value for name, tensor in message.tensors.items()}
    return Reply(message.client, message.round, tensors, {"examples": EXAMPLES, "loss": 0.5, **scalars})


def answer_with(special, default=reply_to):
    """One outcome a client; `special[client](message)` in place of the default reply, an exception as a failure."""

    def answer(message):
        reply = special.get(message.client, default)(message)
        failure = reply if isinstance(reply, str) else None
        return [Outcome(message.client, None if failure else reply, failure, 0.25)]

    return answer


def build_federation(answer, clients=4, method=None, **training):
    """A federation of the clients c0, c1, ..., which are handed over in another order."""
    method = method or Mean(MethodOptions())
    specs = [ClientSpec(f"c{i}", EXAMPLES) for i in reversed(range(clients))]
    state = method.start(None, 0)
    return Federation(method, ScriptedEngine(answer), state, specs, specs, TrainingConfig(**training), 0)
