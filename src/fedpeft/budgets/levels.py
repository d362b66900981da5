"""Which client carries what: levels of resources dealt over the clients, and the allotment each level comes to."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fedpeft.backbones import count_blocks
from fedpeft.config import ResourceLevel
from fedpeft.errors import UserError
from fedpeft.federation.randomness import generator
from fedpeft.resources import ClientResources


def assign_resources(
    clients: Sequence[str], levels: Sequence[ResourceLevel], backbone: nn.Module, seed: int
) -> dict[str, ClientResources]:
    """One allotment per client: levels in the shares they state, dealt in an order drawn with the seed.

    Without levels everyone's is empty: the method's own options hold. Raises UserError for a level that the
    backbone cannot have.
    """
    if not levels:
        return {client: ClientResources() for client in clients}
    order = torch.randperm(len(clients), generator=generator(seed, "resources")).tolist()
    made = [make_resources(level, backbone) for level in levels]
    bounds = torch.tensor([level.share for level in levels], dtype=torch.float64).cumsum(0)
    bounds = bounds / bounds[-1] * len(clients)
    dealt = {}
    for place, index in enumerate(order):
        level = int(torch.searchsorted(bounds, torch.tensor(place + 0.5, dtype=torch.float64)))
        dealt[clients[index]] = made[level]
    return dict(sorted(dealt.items()))


def make_resources(level: ResourceLevel, backbone: nn.Module) -> ClientResources:
    """The levers of one level; `layers` counts adapted blocks from the top. Budgets must be fitted before."""
    if (level.memory_mib, level.uplink_mib_per_round, level.seconds_per_round) != (None, None, None):
        raise UserError("resources: a level states a budget that was not fitted; call `with_fitted_levels` first")
    layers = None
    if level.layers is not None:
        count = count_blocks(backbone)
        if level.layers > count:
            raise UserError(f"resources: the backbone has {count} blocks, a level asks for {level.layers}")
        layers = tuple(range(count - level.layers, count))
    return ClientResources(level.rank, layers, level.density, level.micro_batch, level.checkpointing)


def joining_resources(dealt: dict[str, ClientResources]) -> ClientResources:
    """What a client that joins later carries: what all others do, where they are alike; else the rank that the
    method's options say, on the most layers of any client."""
    held = [own.layers for own in dealt.values() if own.layers is not None]
    most = max(held, key=len) if len(held) == len(dealt) else None
    alike = {(own.rank, own.density) for own in dealt.values()}
    if len(alike) > 1:
        return ClientResources(layers=most)
    ((rank, density),) = alike
    return ClientResources(rank, most, density)


def minimum_config(dealt: dict[str, ClientResources]) -> dict[str, ClientResources]:
    """Everyone at the least of every lever: what a method must run at that wants all clients alike."""
    ranks = [a.rank for a in dealt.values() if a.rank is not None]
    layers = [a.layers for a in dealt.values() if a.layers is not None]
    rank, top = min(ranks, default=None), min(layers, key=len, default=None)
    density = min(a.density for a in dealt.values())
    return {client: replace(own, rank=rank, layers=top, density=density) for client, own in dealt.items()}
