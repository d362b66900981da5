"""Local: every client trains alone; nothing travels. The lower reference of every comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fedpeft.adapters import AdaptedModel, AdapterOptions, LoraOptions
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions


class LocalOptions(MethodOptions):
    adapter: AdapterOptions = Field(default_factory=LoraOptions, description="what each client trains")


@dataclass(frozen=True)
class NoState:
    """The server holds nothing."""


class Local(Method[NoState]):
    """Each round continues from the client's own last round, from the seeded start in the first."""

    Options = LocalOptions

    def start(self, info: FederationInfo, seed: int) -> NoState:
        return NoState()

    def send(self, state: NoState, client: ClientSpec) -> Tensors:
        return {}

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.restore(client.initial if client.local.trained is None else client.local.trained)
        return {}

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return {}

    def aggregate(self, state: NoState, replies: Sequence[Reply]) -> NoState:
        return state
