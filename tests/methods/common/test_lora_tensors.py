"""LoRA tensors by module."""

import torch
from helpers.replies import HEAD, SHAPES, is_close, lora_tensors, make_lora_replies, mean_tensor

from fedpeft.methods.common.lora_tensors import (
    find_modules,
    get_factors,
    mean_heads,
    or_uniform,
    put_factors,
    replies_with,
)


def test_factors_are_read_and_written_by_module():
    tensors = lora_tensors(0)
    assert find_modules(tensors) == list(SHAPES)
    for module, (d_out, d_in) in SHAPES.items():
        b, a = get_factors(tensors, module)
        assert b.shape == (d_out, 3) and a.shape == (3, d_in)
        written = put_factors(module, (b, a))
        assert len(written) == 2 and all(torch.equal(tensors[name], t) for name, t in written.items())


def test_replies_with_a_module_are_those_of_clients_that_adapt_it():
    replies = make_lora_replies()
    for name in [name for name in replies[1].tensors if name.startswith("m.layer.0.q")]:
        del replies[1].tensors[name]
    assert replies_with(replies, "m.layer.0.q") == [replies[0], *replies[2:]]
    assert replies_with(replies, "m.layer.1.up") == replies


def test_heads_are_averaged_by_examples_or_by_the_weights_given():
    replies = make_lora_replies()
    heads = mean_heads(replies)
    assert heads.keys() == {HEAD} and is_close(heads[HEAD], mean_tensor(replies, HEAD))
    last = mean_heads(replies, torch.tensor([0.0, 0, 0, 2]))
    assert torch.equal(last[HEAD], replies[3].tensors[HEAD])


def test_weights_that_are_all_zero_become_equal_ones():
    assert or_uniform(torch.zeros(3)).tolist() == [1, 1, 1]
    assert or_uniform(torch.tensor([0.0, 0.5])).tolist() == [0, 0.5]
