"""Sizes counted by arithmetic against a real model's tensors."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModel

from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.budgets.shape import ModelShape, read_shape
from fedpeft.federation.message import Message, wire_size
from fedpeft.resources import ClientResources


def tiny(architecture: str) -> SequenceClassifier:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "num_attention_heads": 4}
    if architecture == "llama":
        sizes |= {"num_key_value_heads": 2}
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4}
    config = AutoConfig.for_model(architecture, vocab_size=60, pad_token_id=1, **sizes)
    return SequenceClassifier(AutoModel.from_config(config).eval(), num_labels=3, pooling="mean")


def adapted(architecture: str, resources: ClientResources) -> tuple[AdaptedModel, ModelShape]:
    model = tiny(architecture)
    frozen = {"parameters": sum(p.numel() for p in model.backbone.parameters())}
    config = make_lora_config(model, resources.rank, 16, resources.layers or "all", density=resources.density)
    slot = AdaptedModel(get_peft_model(model, config))
    shape = read_shape(slot.model, 3, slot.get_dimensions(), slot.count_parameters()["head"])
    # PEFT keeps the untrained head beside its trained copy
    assert shape.parameters == frozen["parameters"] + shape.head_parameters
    return slot, shape


@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize(
    "allotment",
    [ClientResources(4), ClientResources(2, (2,)), ClientResources(3, (1, 2), 0.3), ClientResources(1, density=0.05)],
)
def test_trained_parameters_and_bytes_are_those_of_the_real_adapter(architecture, resources):
    slot, shape = adapted(architecture, resources)
    assert shape.trained(resources) == sum(slot.count_parameters().values())
    sent = wire_size(Message("a client", 12, slot.read(), {"examples": 100, "loss": 0.5}))
    assert sent <= shape.uplink_bytes(resources) <= sent + 4096 + 150 * len(slot.names)


def test_what_is_read_of_a_model_with_grouped_heads():
    _, shape = adapted("llama", ClientResources(2))
    assert (shape.blocks, shape.width, shape.heads, shape.kv_heads, shape.vocabulary) == (3, 32, 4, 2, 60)
    assert shape.intermediate == 48
    assert shape.linear["self_attn.k_proj"] == (32, 16) and shape.linear["mlp.down_proj"] == (48, 32)
    assert shape.weight_bytes == 4 * shape.parameters and shape.element_bytes == 4
    assert ModelShape.of(shape.as_dict()) == shape


def test_backpropagation_ends_at_the_lowest_adapted_block():
    _, shape = adapted("bert", ClientResources(2))
    assert [shape.depth(ClientResources(layers=layers)) for layers in (None, (2,), (1, 2), (0,))] == [3, 1, 2, 3]
    assert shape.adapted(ClientResources(layers=(0,))) == 1
    assert shape.top(2) == (1, 2)
