"""The base of methods without a server: nothing travels, and every client's result is its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fedpeft.adapters import AdaptedModel, AdapterOptions, LoraOptions
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions


class IsolatedOptions(MethodOptions):
    adapter: AdapterOptions = Field(default_factory=LoraOptions, description="the adapter of every client")


@dataclass(frozen=True)
class NoState:
    """The server holds nothing."""


class Isolated(Method[NoState]):
    """Messages and replies hold no tensors; `receive` says what a client starts from."""

    Options = IsolatedOptions

    def start(self, info: FederationInfo, seed: int) -> NoState:
        return NoState()

    def send(self, state: NoState, client: ClientSpec) -> Tensors:
        return {}

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return {}

    def aggregate(self, state: NoState, replies: Sequence[Reply]) -> NoState:
        return state
