"""Fed-SB: only a small matrix R between two frozen ones travels. Singhal et al., arXiv 2502.15436.

The paper's: W0 x + s B R A x with s = 1; B and A are the leading singular directions of an estimate of the first step
of full fine-tuning (LoRA-SB, arXiv 2411.19557) and never change; clients train R (r, r), and the server's mean of R is
exact, B mean(R) A = mean(B R A).
Where that estimate comes from is open in a federation: the released code takes it from the pooled data. Ours [choice]:
the first round estimates it. Clients train the head alone, where there is one, and send sketches of the mean gradient
of each layer's weight along the way, with random matrices that all derive from the run's seed. Sketches are linear:
their mean is that of the federation's gradient, whose directions the server reads off and sends each client once. R
starts at zero, where the paper's starts at the estimated step, because a gradient says nothing of a step's length under
AdamW. The mean is weighted by examples, and the head is averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from peft import PeftConfig
from pydantic import Field
from torch import nn

from fedpeft.adapters import AdaptedModel, LoraOptions, find_lora_pairs, make_lora_config
from fedpeft.aggregation import count_sketch_sizes, find_directions
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, get_layout
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.fedavg import GlobalState, LoraFedAvg
from fedpeft.methods.common.options import LoraMeanOptions
from fedpeft.methods.common.weight_gradients import WeightGradients, draw_module_matrices, name_sketches

BASIS = ("lora_A.weight", "lora_B.basis")  # the ends of the names of A and B


class FedSbOptions(LoraMeanOptions):
    lr: float = Field(1e-2, gt=0, description="learning rate of the first round")
    adapter: LoraOptions = Field(
        default_factory=lambda: LoraOptions(r=16, alpha=16), description="which layers have B R A, and its rank r"
    )


@dataclass(frozen=True)
class FedSbState(GlobalState):
    """`tensors` are R and the head."""

    sizes: dict[str, list[int]] = field(default_factory=dict)  # d_out, d_in and r, by module
    basis: Tensors = field(default_factory=dict)  # A and B; none before the first round
    seed: int = 0
    seen: tuple[str, ...] = ()  # clients that hold the basis


class FedSb(LoraFedAvg):
    """FedAvg over R and the head; the engine trains its clients alone, because the first round is not ordinary."""

    Options = FedSbOptions
    uses_client_state = True

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        own, resources = self.options.adapter, client.resources
        rank, layers = resources.rank or own.r, resources.layers or own.layers
        return make_lora_config(model, rank, own.scale * rank, layers, own.targets, has_core=True)

    # ---- server

    def start(self, info: FederationInfo, seed: int) -> FedSbState:
        start = info.shared_initial_tensors()
        dimensions = info.dimensions[info.clients[0].id]
        sizes = {module: [*dimensions[module], len(start[a])] for module, a, _ in find_lora_pairs(start)}
        return FedSbState(drop_basis(start), sizes=sizes, seed=seed)

    def send(self, state: GlobalState, client: ClientSpec) -> Tensors:
        assert isinstance(state, FedSbState)
        return state.tensors if client.id in state.seen else state.tensors | state.basis

    def reply_layout(self, state: GlobalState, message: Message) -> Layout:
        assert isinstance(state, FedSbState)
        layout = get_layout(state.tensors)
        for module, (d_out, d_in, rank) in {} if state.basis else state.sizes.items():
            k, size = count_sketch_sizes(d_out, d_in, rank)
            shapes = torch.Size((d_out, k)), torch.Size((size, d_in))
            layout |= {n: (torch.float32, shape) for n, shape in zip(name_sketches(module), shapes, strict=True)}
        return layout

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> FedSbState:
        assert isinstance(state, FedSbState)
        if state.basis:
            stepped = super().aggregate(state, replies)
            seen = sorted({*state.seen, *(reply.client for reply in replies)})
            return replace(state, tensors=stepped.tensors, moments=stepped.moments, seen=tuple(seen))
        mean, basis = self.average(replies), dict(state.basis)
        for module, (d_out, d_in, rank) in state.sizes.items():
            right, left = (mean.pop(name) for name in name_sketches(module))
            _, psi = draw_module_matrices(module, d_out, d_in, rank, state.seed)
            b, a = find_directions(right, left, psi, rank)
            basis |= {f"{module}.{end}": factor for end, factor in zip(BASIS, (a, b), strict=True)}
        return replace(state, tensors=state.tensors | mean, basis=basis)

    # ---- client

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        own = client.local.trained or client.initial  # which has the basis, once it was sent
        model.write({name: own[name] for name in model.names if name.endswith(BASIS)} | message.tensors)
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return tuple(name for name in model.names if not name.endswith(BASIS))

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        self.receive(model, message, client)
        if has_basis(model):
            return super().train(model, message, client, training, shuffle)
        gradients = WeightGradients(model, client.seed)
        with gradients.observe():  # without a basis R has no gradient and stays: the head moves alone
            reply = super().train(model, message, client, training, shuffle)
        steps = training.local_epochs * math.ceil(len(client.splits["train"]) / training.batch_size)
        return replace(reply, tensors=reply.tensors | gradients.read_mean(steps))

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        return drop_basis(model.read())


def has_basis(model: AdaptedModel) -> bool:
    """Whether the model was given its basis, which is zero until then."""
    return any(bool(p.any()) for n, p in zip(model.names, model.parameters(), strict=True) if n.endswith(BASIS[1]))


def drop_basis(tensors: Tensors) -> Tensors:
    """R and the head."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(BASIS)}
