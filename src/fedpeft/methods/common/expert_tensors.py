"""Methods whose clients hold several LoRA on one layer: what travels is ordinary LoRA, experts exist at the client."""

from collections.abc import Iterable

from torch import nn

from fedpeft.adapters import (
    LoraOptions,
    find_expert_layers,
    find_lora_pairs,
    get_expert_names,
    get_router_name,
    is_head,
    make_experts_config,
)
from fedpeft.adapters.experts.config import ExpertsConfig, Gate
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Tensors

ROUTER = get_router_name("")  # the end of a name
# Of the gates "adaptive" and "similarity", by their names in a model:
COUNT = "base_model.model.expert_state.expert_count"  # (1,): how many experts are in use
LIMIT = "base_model.model.expert_state.expert_limit"  # (1,): the largest weight of the first expert
REFERENCE = "base_model.model.expert_state.expert_reference"  # (width,): what texts are compared with


def make_client_config(
    options: LoraOptions, model: nn.Module, client: ClientSpec, experts: int, gate: Gate
) -> ExpertsConfig:
    """So many experts, each as the options' LoRA would be at this client."""
    rank, layers = client.resources.rank or options.r, client.resources.layers or options.layers
    return make_experts_config(model, rank, options.scale * rank, experts, gate, layers, options.targets)


def read_expert(tensors: Tensors, expert: int) -> Tensors:
    """One expert's factors by the names that an ordinary LoRA's would have."""
    result: Tensors = {}
    for layer in find_expert_layers(tensors):
        a, b = get_expert_names(layer, expert)
        result |= {f"{layer}.lora_A.weight": tensors[a], f"{layer}.lora_B.weight": tensors[b]}
    return result


def name_expert(lora: Tensors, expert: int) -> Tensors:
    """The factors of an ordinary LoRA by the names of one expert, the inverse of `read_expert`."""
    result: Tensors = {}
    for layer, a, b in find_lora_pairs(lora):
        result |= dict(zip(get_expert_names(layer, expert), (lora[a], lora[b]), strict=True))
    return result


def take_routers(tensors: Tensors) -> Tensors:
    """The weights of the routers."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith(ROUTER)}


def find_trained_names(names: Iterable[str], expert: int, with_routers: bool = True) -> tuple[str, ...]:
    """The names of one expert's factors, of the routers where asked, and of the head."""
    ends = [f".expert_lora.{factor}{expert}" for factor in "AB"] + [ROUTER] * with_routers
    return tuple(name for name in names if name.endswith(tuple(ends)) or is_head(name))
