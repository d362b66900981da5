"""Methods that add something to the base weights each round (FLoRA, FedEx-LoRA): kept as factors, never written [ours].

The server keeps the sum of all that was added. A client that trained in the last round is sent what that round added,
and adds it to what it holds; any other client is sent the whole sum. The client holds it as a frozen low-rank delta
beside its trainable LoRA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fedpeft.adapters import AdaptedModel, find_lora_pairs, get_frozen_delta_names
from fedpeft.aggregation import Factors, concat_factors, truncate
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Tensors
from fedpeft.federation.method import FederationInfo
from fedpeft.methods.common.lora_tensors import find_modules

ADDED = "added:"  # prefix of a factor that adds to the client's delta; one without it replaces the delta


@dataclass(frozen=True)
class CumulativeState:
    """`total` and `last` are factors by module, (B (d_out, r), A (r, d_in)), scale included."""

    tensors: Tensors  # what is averaged
    shapes: dict[str, dict[str, list[int]]]  # of what each client trains, by client and tensor
    total: dict[str, Factors] = field(default_factory=dict)
    last: dict[str, Factors] = field(default_factory=dict)
    round: int = 0
    seen: dict[str, int] = field(default_factory=dict)  # round of the last usable reply, by client

    def select_delta(self, client: str) -> Tensors:
        """What this client must be sent so that it holds `total` on the modules it adapts."""
        is_current = self.seen.get(client) == self.round
        shapes = self.shapes.get(client)
        modules = list(self.total) if shapes is None else find_modules(shapes)
        factors = {m: f for m, f in (self.last if is_current else self.total).items() if m in modules}
        return {(ADDED if is_current else "") + name: t for name, t in name_frozen_delta(factors).items()}

    def add_round(
        self, tensors: Tensors, added: dict[str, Factors], round_: int, clients: Sequence[str]
    ) -> "CumulativeState":
        """The state after a round in which these clients replied and `added` joined the sum."""
        total = {
            m: compact_rank(concat_factors([self.total[m], f])) if m in self.total else f for m, f in added.items()
        }
        seen = self.seen | dict.fromkeys(clients, round_)
        return CumulativeState(tensors, self.shapes, self.total | total, added, round_, seen)


def read_shapes(info: FederationInfo) -> dict[str, dict[str, list[int]]]:
    """The shapes of what each client trains, by client and tensor."""
    return {client: {n: list(t.shape) for n, t in tensors.items()} for client, tensors in info.initial.items()}


def name_frozen_delta(factors: Mapping[str, Factors]) -> Tensors:
    """The named tensors of a frozen delta, from its factors by module."""
    tensors: Tensors = {}
    for module, (b, a) in factors.items():
        name_a, name_b = get_frozen_delta_names(module)
        tensors |= {name_a: a, name_b: b}
    return tensors


def read_delta(client: Client, message: Message) -> Tensors:
    """The frozen delta that the client holds once it has received the message."""
    added = {n.removeprefix(ADDED): t for n, t in message.tensors.items() if n.startswith(ADDED)}
    own = client.local.trained or {}
    delta = take_frozen_delta({n: t for n, t in message.tensors.items() if not n.startswith(ADDED)})
    for name_a in [name for name in added if name.endswith(".merged_A")]:
        module = name_a.removesuffix(".merged_A")
        _, name_b = get_frozen_delta_names(module)
        new = added[name_b], added[name_a]
        total = compact_rank(concat_factors([(own[name_b], own[name_a]), new])) if name_a in own else new
        delta |= name_frozen_delta({module: total})
    return delta


def take_frozen_delta(tensors: Tensors) -> Tensors:
    """The tensors of a frozen delta, by name."""
    return {name: tensor for name, tensor in tensors.items() if ".merged_" in name}


def compact_rank(factors: Factors) -> Factors:
    """The same product at a rank of at most the smaller dimension."""
    b, a = factors
    return truncate(factors) if a.shape[0] > min(b.shape[0], a.shape[1]) else factors


def draw_fresh_lora(model: AdaptedModel, draw: torch.Generator) -> Tensors:
    """A new start for the trainable LoRA: A uniform as PEFT draws it, B zero."""
    tensors: Tensors = {}
    for _, name_a, name_b in find_lora_pairs(model.names):
        a, b = model.parameters([name_a, name_b])
        bound = a.shape[1] ** -0.5  # (r, d_in)
        drawn = (2 * torch.rand(a.shape, generator=draw) - 1) * bound
        tensors |= {name_a: drawn.to(a.device, a.dtype), name_b: torch.zeros_like(b)}
    return tensors
