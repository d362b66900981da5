"""Centralised: one model trained on all clients' examples pooled, evaluated at every client. The upper reference.

It is a federation of one simulated client; no real federation may do this, since the data would have to leave.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from fedpeft.adapters import AdapterOptions, LoraOptions
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions
from fedpeft.methods.common.fedavg import GlobalState


class CentralisedOptions(MethodOptions):
    adapter: AdapterOptions = Field(default_factory=LoraOptions, description="the adapter trained on the pooled data")


class Centralised(Method[GlobalState]):
    """As many epochs over the pooled examples as every client makes over its own."""

    Options = CentralisedOptions
    uses_client_state = False
    pools_data = True
    follows: ClassVar[frozenset[str]] = frozenset()  # its one client is bound by nobody's resources

    def start(self, info: FederationInfo, seed: int) -> GlobalState:
        return GlobalState(info.shared_initial_tensors())

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        return state.tensors

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        (reply,) = replies
        return GlobalState(reply.tensors)
