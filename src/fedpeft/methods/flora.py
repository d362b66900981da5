"""FLoRA: stack the clients' LoRA instead of averaging it. Wang et al., arXiv 2409.05976.

The paper's: clients of any rank start a fresh LoRA every round; the server stacks [p_k s B_k] and [A_k], whose product
is exactly sum_k p_k s B_k A_k; every client merges that into its base. Ours [choice]: the base is never written, the
sum stays beside it as a frozen delta; a client applies what falls on the layers it adapts, and of each module p_k is
taken over the clients that adapt it; the head is averaged.
"""

from collections.abc import Sequence

import torch
from peft import PeftConfig
from pydantic import Field
from torch import nn

from fedpeft.adapters import Slot, is_head
from fedpeft.aggregation import stack
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, by_examples
from fedpeft.methods.merging import MergedState, delta_of, fresh_lora, shapes_of
from fedpeft.methods.options import LoraOptions
from fedpeft.methods.ranks import holders, mean_heads, modules_of, pair


class FLoraOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="LoRA; `resources` give clients other ranks")


class FLora(Method[MergedState]):
    Options = FLoraOptions

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return self.options.adapter.config(model, client)

    def start(self, info: FederationInfo, seed: int) -> MergedState:
        some = next(iter(info.initial.values()))
        head = {name: tensor for name, tensor in some.items() if is_head(name)}
        return MergedState(head, shapes_of(info))

    def send(self, state: MergedState, client: ClientSpec) -> Tensors:
        return state.tensors | state.delta_for(client.id)

    def receive(self, model: Slot, message: Message, client: Client) -> dict[str, Scalar]:
        head = {name: tensor for name, tensor in message.tensors.items() if is_head(name)}
        model.write(head | fresh_lora(model, client.generator("fresh", message.round)))
        model.merge(delta_of(client, message))
        return {}

    def expects(self, state: MergedState, message: Message) -> Layout:
        return {n: (torch.float32, torch.Size(shape)) for n, shape in state.shapes[message.client].items()}

    def aggregate(self, state: MergedState, replies: Sequence[Reply]) -> MergedState:
        added = {}
        for module in sorted({module for reply in replies for module in modules_of(reply.tensors)}):
            own = holders(replies, module)
            weights = self.options.adapter.scale * by_examples(own)
            added[module] = stack([pair(reply.tensors, module) for reply in own], weights)
        return state.after(mean_heads(replies), added, replies[0].round, [reply.client for reply in replies])
