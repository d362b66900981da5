"""FlexLoRA: every client is sent the truncated SVD of the mean product."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    SHAPES,
    build_method,
    get_product,
    is_close,
    make_lora_replies,
    mean_product,
    mean_tensor,
    start_lora,
    truncate_dense,
)

RANKS = (1, 2, 4, 3)


@pytest.mark.parametrize("module", SHAPES)
def test_it_is_the_truncated_svd_of_the_mean_product(module):
    method, replies = build_method("flexlora"), make_lora_replies(RANKS)
    state, specs = start_lora(method, RANKS)
    state = method.aggregate(state, replies)
    for spec, rank in zip(specs, RANKS, strict=True):
        sent = method.send(state, spec)
        assert sent[f"{module}.lora_A.weight"].shape[0] == rank
        assert is_close(get_product(sent, module), truncate_dense(mean_product(replies, module), rank), 1e-4)
        assert is_close(sent[HEAD], mean_tensor(replies, HEAD))


def test_a_module_is_averaged_over_the_clients_that_adapt_it_and_stays_where_there_is_none():
    method, replies = build_method("flexlora"), make_lora_replies(RANKS)
    state, specs = start_lora(method, RANKS)
    for reply in replies:
        for name in [n for n in reply.tensors if ".up." in n or (".q." in n and reply.client in ("c0", "c3"))]:
            del reply.tensors[name]
    sent = method.send(method.aggregate(state, replies), specs[2])
    mean = truncate_dense(mean_product(replies[1:3], "m.layer.0.q"), 4)
    assert is_close(get_product(sent, "m.layer.0.q"), mean, 1e-4)
    for name in ("m.layer.1.up.lora_A.weight", "m.layer.1.up.lora_B.weight"):
        assert torch.equal(sent[name], state.tensors[name])


def test_directions_that_the_mean_does_not_have_can_still_learn():
    """Clients of small rank alone must leave the others' rows of A in place, with B zero beside them."""
    method, replies = build_method("flexlora"), make_lora_replies(RANKS)
    state, specs = start_lora(method, RANKS)
    sent = method.send(method.aggregate(state, replies[:1]), specs[2])
    for module in SHAPES:
        a, b = sent[f"{module}.lora_A.weight"], sent[f"{module}.lora_B.weight"]
        assert a.shape[0] == 4 and torch.equal(a[1:], state.tensors[f"{module}.lora_A.weight"][1:])
        assert not b[:, 1:].any() and is_close(get_product(sent, module), get_product(replies[0].tensors, module))
    assert method.uses_client_state is False
