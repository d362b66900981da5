"""Sizes counted by arithmetic against a real model's tensors."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModel

from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.budgets.shape import ModelShape, read_shape
from fedpeft.federation.message import Message, wire_size
from fedpeft.resources import ClientResources


def make_classifier(architecture: str, **options) -> SequenceClassifier:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "num_attention_heads": 4}
    if architecture == "llama":
        sizes |= {"num_key_value_heads": 2}
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4}
    config = AutoConfig.for_model(architecture, vocab_size=60, pad_token_id=1, **sizes, **options)
    return SequenceClassifier(AutoModel.from_config(config).eval(), num_labels=3, pooling="mean")


def adapt(classifier: SequenceClassifier, resources: ClientResources) -> tuple[AdaptedModel, ModelShape]:
    config = make_lora_config(classifier, resources.rank, 16, resources.layers or "all", density=resources.density)
    model = AdaptedModel(get_peft_model(classifier, config))
    return model, read_shape(model.model, 3, model.get_dimensions(), model.count_parameters()["head"])


@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize(
    "resources",
    [ClientResources(4), ClientResources(2, (2,)), ClientResources(3, (1, 2), 0.3), ClientResources(1, density=0.05)],
)
def test_trained_parameters_and_bytes_are_those_of_the_real_adapter(architecture, resources):
    model, shape = adapt(make_classifier(architecture), resources)
    assert shape.count_trained(resources) == sum(model.count_parameters().values())
    sent = wire_size(Message("a client", 12, model.read(), {"examples": 100, "loss": 0.5}))
    assert sent <= shape.estimate_uplink_bytes(resources) <= sent + 4096 + 150 * len(model.names)


def test_a_model_with_grouped_heads_is_read():
    classifier = make_classifier("llama")
    frozen = sum(p.numel() for p in classifier.backbone.parameters())
    _, shape = adapt(classifier, ClientResources(2))
    assert (shape.blocks, shape.width, shape.heads, shape.attention) == (3, 32, 4, "sdpa")
    assert shape.intermediate == 48 and shape.head_parameters == 3 * 32 + 3
    assert shape.linear["self_attn.k_proj"] == (32, 16) and shape.linear["mlp.down_proj"] == (48, 32)
    assert shape.parameters == frozen + shape.head_parameters  # PEFT keeps the untrained head beside its trained copy
    assert shape.weight_bytes == 4 * shape.parameters and shape.element_bytes == 4


def test_a_backbone_in_half_precision_has_weights_and_activations_of_half_the_bytes():
    classifier = make_classifier("bert", attn_implementation="eager")
    classifier.backbone.to(torch.bfloat16)
    _, shape = adapt(classifier, ClientResources(2))
    assert shape.element_bytes == 2 and shape.attention == "eager"
    assert shape.weight_bytes == 2 * (shape.parameters - shape.head_parameters) + 4 * shape.head_parameters


def test_backpropagation_ends_at_the_lowest_adapted_block(shape):
    by_layers = {None: 6, (5,): 1, (2, 3): 4, (0,): 6}
    for layers, depth in by_layers.items():
        assert shape.count_backward_blocks(ClientResources(layers=layers)) == depth
    assert shape.count_adapted_blocks(ClientResources(layers=(0,))) == 1
    assert shape.count_adapted_blocks(ClientResources()) == 6
    assert shape.list_top_blocks(2) == (4, 5)


def test_a_fraction_of_rows_is_rounded_up_and_never_none(shape):
    """A of (1, 50) and the trained rows of B of (100, 1): rank 1, without a head. 0.07 * 100 is above 7 in floats."""
    small = replace(shape, linear={"only": (50, 100)}, blocks=1, head_parameters=0)
    rows = {1.0: 100, 0.5: 50, 0.07: 7, 0.071: 8, 0.001: 1}
    for density, count in rows.items():
        assert small.count_trained(ClientResources(1, density=density)) == 50 + count


def test_masks_cost_a_bit_per_row(shape):
    """All rows but so few that none falls away: the same parameters, and a bitmap with a name for each module."""
    whole, masked = ClientResources(2), ClientResources(2, density=1 - 1e-12)
    assert shape.count_trained(whole) == shape.count_trained(masked)
    bitmaps = 6 * (5 * 384 + 1536) // 8
    assert shape.estimate_uplink_bytes(masked) - shape.estimate_uplink_bytes(whole) == bitmaps + 192 * 6 * 6
