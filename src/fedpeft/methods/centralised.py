"""Centralised: one model trained on everybody's rows pooled, evaluated at every client. The upper reference.

It is a federation of one simulated client; no real federation may do this, since the data would have to leave.
"""

from collections.abc import Sequence

from pydantic import Field

from fedpeft.adapters import AdaptedModel, AdapterOptions, LoraOptions
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import MethodOptions
from fedpeft.methods.common.fedavg import FedAvg, GlobalState


class CentralisedOptions(MethodOptions):
    adapter: AdapterOptions = Field(default_factory=LoraOptions, description="what is trained on the pooled rows")


class Centralised(FedAvg):
    """The same number of epochs over the pooled rows as every client makes over its own."""

    Options = CentralisedOptions
    uses_client_state = False
    pools_data = True

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> None:
        return None

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        (only,) = replies
        return GlobalState(only.tensors)
