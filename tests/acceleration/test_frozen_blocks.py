"""Which blocks are frozen, and which tensors decide what they compute."""

import pytest
from helpers.accelerated import record_attention
from helpers.caching import cached_step, enable_cache
from peft import LoraConfig, get_peft_model

from fedpeft.acceleration.frozen_blocks import count_frozen_blocks, find_frozen_tensors
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import AdaptedModel


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "llama", "gpt2"])
@pytest.mark.parametrize(
    ("kind", "layers", "frozen"),
    [
        ("lora", [1, 2], 1),
        ("lora", [2], 2),
        ("masked", [1], 1),
        ("reft", [1, 2], 2),
        ("reft", [0], 1),
        ("lora", [0, 2], 0),
    ],
)
def test_frozen_blocks_run_once_for_each_sequence(kind, layers, frozen, architecture, build, padded):
    model, batch, cache = build(kind, architecture, layers), padded(), PrefixCache(1)
    assert count_frozen_blocks(model.base) == frozen
    runs = record_attention(model)
    cached_step(model, cache, batch)
    assert runs == [*range(frozen)] * (3 if frozen else 0) + [*range(frozen, 3)]  # three sequences, then the batch
    runs.clear()
    cached_step(model, cache, batch)
    assert runs == [*range(frozen, 3)]


def test_with_a_trained_head_alone_every_block_is_frozen(tiny_classifier, padded):
    config = LoraConfig(target_modules=["classifier"], r=2)
    model, batch, cache = AdaptedModel(get_peft_model(tiny_classifier("bert"), config)), padded(), PrefixCache(1)
    assert count_frozen_blocks(model.base) == 3
    runs = record_attention(model)
    for _ in range(2):
        with enable_cache(cache, model):
            model.model(**batch)
    assert runs == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("architecture", "module"), [("bert", "word_embeddings"), ("mpnet", "relative_attention_bias")]
)
def test_an_adapter_before_or_beside_the_blocks_leaves_none_frozen(architecture, module, tiny_classifier):
    config = LoraConfig(target_modules=rf".*({module}|layer\.2\.output\.dense)", r=2)
    assert count_frozen_blocks(get_peft_model(tiny_classifier(architecture), config).get_base_model()) == 0


@pytest.mark.parametrize(("kind", "count"), [("lora", 1), ("reft", 2)])
def test_the_frozen_tensors_are_those_of_the_prefix_and_of_what_no_adapter_holds(kind, count, build, tiny_classifier):
    model, plain = build(kind, "bert", [1, 2]), tiny_classifier("bert")
    tensors = dict(find_frozen_tensors(model.base, count))
    inside = [f".layer.{i}." for i in range(count)]
    outside = [".embeddings.", ".pooler."]
    names = [name for name, _ in plain.named_parameters() if any(part in name for part in inside + outside)]
    assert sorted(tensors) == sorted(names)
    assert not any(tensor.requires_grad for tensor in tensors.values())
