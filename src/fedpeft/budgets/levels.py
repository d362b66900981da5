"""Levels of resources: what each gives to a client, and which client has which."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from fedpeft.backbones import count_blocks
from fedpeft.config import ResourceLevel
from fedpeft.errors import UserError
from fedpeft.federation.randomness import generator
from fedpeft.resources import ClientResources


def states_budget(level: ResourceLevel) -> bool:
    """Whether the level says what a device has, and leaves open what it trains."""
    return (level.memory_mib, level.uplink_mib_per_round, level.seconds_per_round) != (None, None, None)


def assign_resources(
    clients: Sequence[str], levels: Sequence[ResourceLevel], backbone: nn.Module, seed: int
) -> dict[str, ClientResources]:
    """Resources by client: each level goes to the fraction of clients that it states, in an order drawn with `seed`.

    Without levels every client has empty resources, which leave every setting to the method's options. Raises UserError
    as `make_resources` does.
    """
    if not levels:
        return {client: ClientResources() for client in clients}
    order = torch.randperm(len(clients), generator=generator(seed, "resources")).tolist()
    by_level = [make_resources(level, backbone) for level in levels]
    bounds = torch.tensor([level.fraction for level in levels], dtype=torch.float64).cumsum(0)  # (levels,)
    bounds = bounds / bounds[-1] * len(clients)  # up to which position in `order` each level goes
    assigned = {}
    for position, index in enumerate(order):
        level = int(torch.searchsorted(bounds, torch.tensor(position + 0.5, dtype=torch.float64)))
        assigned[clients[index]] = by_level[level]
    return dict(sorted(assigned.items()))


def make_resources(level: ResourceLevel, backbone: nn.Module) -> ClientResources:
    """The resources that a level gives to each of its clients; its count of layers becomes the topmost blocks.

    Raises UserError for more layers than the backbone has blocks, and for a budget that `resolve_budgets` has not
    replaced.
    """
    if states_budget(level):
        raise UserError("resources: a level states a budget that was not fitted; call `resolve_budgets` first")
    layers = None
    if level.layers is not None:
        count = count_blocks(backbone)
        if level.layers > count:
            raise UserError(f"resources: the backbone has {count} blocks, a level asks for {level.layers}")
        layers = tuple(range(count - level.layers, count))
    return ClientResources(level.rank, layers, level.density, level.micro_batch, level.checkpointing)


def joining_resources(assigned: Mapping[str, ClientResources]) -> ClientResources:
    """The resources of a client that joins after training, derived from those of the others.

    Layers: the most that any client has; None (the method's own) where one of them has None. Rank and density: those of
    the others where all have the same; else None and 1, so that the method's options decide.
    """
    stated = [own.layers for own in assigned.values() if own.layers is not None]
    layers = max(stated, key=len) if len(stated) == len(assigned) else None
    different = {(own.rank, own.density) for own in assigned.values()}
    if len(different) > 1:
        return ClientResources(layers=layers)
    ((rank, density),) = different
    return ClientResources(rank, layers, density)


def minimum_config(assigned: Mapping[str, ClientResources]) -> dict[str, ClientResources]:
    """Resources by client with the lowest rank, the fewest layers and the lowest density of all.

    A method that needs the same adapter everywhere runs with these. Micro-batch and checkpointing, which change results
    by rounding only, stay each client's own.
    """
    ranks = [own.rank for own in assigned.values() if own.rank is not None]
    layers = [own.layers for own in assigned.values() if own.layers is not None]
    lowest_rank, fewest_layers = min(ranks, default=None), min(layers, key=len, default=None)
    density = min(own.density for own in assigned.values())
    return {
        client: replace(own, rank=lowest_rank, layers=fewest_layers, density=density)
        for client, own in assigned.items()
    }
