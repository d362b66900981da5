"""FedHFT's clients: masked LoRA replies with random rows, and their dense updates."""

from dataclasses import replace

import torch

from fedpeft.aggregation import pack_rows
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.method import FederationInfo
from fedpeft.methods.fedhft import FedHft
from fedpeft.resources import ClientResources
from helpers.replies import EXAMPLES, HEAD, SCALE, SHAPES, make_reply

RANKS, DENSITIES = (2, 3, 1, 3), (1.0, 0.5, 0.3, 0.5)


def build_fedhft(**options):
    return FedHft(FedHft.Options(**{"server_rank": None, **options}))


def start_fedhft(method, ranks=RANKS, densities=DENSITIES, examples=EXAMPLES):
    """The server's first state and the clients."""
    draw = torch.Generator().manual_seed(5)
    specs, initial = [], {}
    for i, (rank, density, n) in enumerate(zip(ranks, densities, examples, strict=True)):
        spec = ClientSpec(f"c{i}", n, ClientResources(rank=rank, density=density))
        specs.append(spec)
        initial[spec.id] = {HEAD: torch.zeros(3, 24)}
        for module, (d_out, d_in) in SHAPES.items():
            initial[spec.id][f"{module}.lora_A.weight"] = torch.randn(rank, d_in, generator=draw)
            initial[spec.id][f"{module}.lora_B.weight"] = torch.zeros(d_out, rank)
    info = FederationInfo(tuple(specs), initial, {spec.id: SHAPES for spec in specs})
    return method.start(info, 0), specs


def make_masked_reply(modules, spec, seed, round_=1):
    """A reply as the client would make it, and (update, covered rows) by module, dense in float64."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {HEAD: torch.randn(3, 24, generator=draw)}
    updates = {}
    for module, size in modules.items():
        rows = torch.randperm(size["d_out"], generator=draw)[: size["rows"]].sort().values
        b = torch.randn(size["rows"], size["rank"], generator=draw)
        a = torch.randn(size["rank"], size["d_in"], generator=draw)
        tensors |= {
            f"{module}.lora_A.weight": a,
            f"{module}.lora_masked_B": b,
            f"{module}.lora_row_bitmap": pack_rows(rows, size["d_out"]),
        }
        update = torch.zeros(size["d_out"], size["d_in"], dtype=torch.float64)
        update[rows] = SCALE * b.double() @ a.double()
        covered = torch.zeros(size["d_out"], dtype=torch.float64)
        covered[rows] = 1
        updates[module] = update, covered
    return make_reply(spec.id, tensors, spec.examples, round_), updates


def make_masked_replies(state, specs, base=0, round_=1):
    pairs = [make_masked_reply(state.modules[spec.id], spec, base + i, round_) for i, spec in enumerate(specs)]
    return [reply for reply, _ in pairs], [updates for _, updates in pairs]


def average_overlap(updates, weights, module, by_count=False):
    """g[d] = sum_k w_k M_k[d] Delta_k[d] / sum_k w_k M_k[d], rows that nobody covers 0."""
    total = sum(w * u[module][0] for w, u in zip(weights, updates, strict=True))
    divisor = sum((1.0 if by_count else w) * u[module][1] for w, u in zip(weights, updates, strict=True))
    return torch.where(divisor[:, None] > 0, total / divisor.clamp_min(1e-30)[:, None], 0.0)


def with_responsibilities(state, responsibilities):
    """The state as if a clustering had given these responsibilities (clients, clusters)."""
    count = responsibilities.shape[1]
    shares = {f"c{i}": row.double() for i, row in enumerate(responsibilities)}
    return replace(state, shares=shares, heads=state.heads * count, updates=state.updates * count)
