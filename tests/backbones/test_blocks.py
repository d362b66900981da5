import re

import pytest
from peft import get_peft_model
from torch import nn
from transformers import AutoModel, T5Config

from fedpeft.adapters import LoReftConfig
from fedpeft.backbones.blocks import count_blocks, find_blocks, make_block_pattern, resolve_layers, unwrap_block
from fedpeft.errors import UserError

PLACES = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "mpnet": "encoder.layer",
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "mistral": "model.layers",
    "gpt2": "transformer.h",
}


@pytest.mark.parametrize("architecture", PLACES)
def test_the_blocks_of_every_architecture_are_found(architecture, tiny):
    name, blocks = find_blocks(tiny(architecture))
    assert (name, len(blocks)) == (PLACES[architecture], 3)


def test_lists_inside_blocks_do_not_count():
    block = nn.Module()
    block.experts = nn.ModuleList([nn.Linear(2, 2)])
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    assert find_blocks(model)[0] == "blocks"


def test_a_model_with_two_lists_is_named_in_the_error():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 10}
    with pytest.raises(UserError, match=r"T5Model.*found 2 \(encoder.block, decoder.block\)"):
        find_blocks(AutoModel.from_config(T5Config(**sizes)))
    with pytest.raises(UserError, match=r"Linear.*found 0"):
        find_blocks(nn.Linear(2, 2))


def test_the_pattern_matches_the_chosen_blocks_and_nothing_inside(tiny):
    model = tiny("bert", layers=12)
    pattern = make_block_pattern(model, [1, 10])
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert matched == ["encoder.layer.1", "encoder.layer.10"]


def test_layers_come_sorted_and_each_once(tiny):
    model = tiny("bert")
    assert resolve_layers(model, [2, 0, 2], 3) == [0, 2]
    assert resolve_layers(model, (1,), 3) == [1]
    assert resolve_layers(model, "all", 3) == [0, 1, 2]
    assert count_blocks(model) == 3


@pytest.mark.parametrize("layers", [[3], [-1], [], "some", [0.5]])
def test_layers_that_are_not_there_are_refused(layers, tiny):
    with pytest.raises(UserError, match=r"BertModel has blocks 0 to 2.*Received"):
        resolve_layers(tiny("bert"), layers, 3)


def test_an_adapter_around_a_block_is_unwrapped_and_one_inside_stays(tiny):
    model = tiny("bert")
    blocks = list(find_blocks(model)[1])
    adapted = get_peft_model(model, LoReftConfig(layers=[1])).get_base_model()
    wrapped = find_blocks(adapted)[1]
    assert wrapped[1] is not blocks[1]
    assert [unwrap_block(block) for block in wrapped] == blocks
