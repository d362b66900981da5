"""FedHFT with `head: client`: each client is sent its own last head, the others' bodies all the same."""

import torch
from helpers.masked_replies import build_fedhft, make_masked_replies, make_masked_reply, start_fedhft
from helpers.replies import HEAD, JOINING, are_equal

from fedpeft.adapters import is_head
from fedpeft.federation.client import ClientSpec


def without_head(tensors):
    return {name: tensor for name, tensor in tensors.items() if not is_head(name)}


def run_round(clients=4, **options):
    method = build_fedhft(warmup=100, **options)
    state, specs = start_fedhft(method)
    replies, _ = make_masked_replies(state, specs[:clients])
    return method, method.aggregate(state, replies), specs, replies


def test_each_client_is_sent_its_own_last_head_and_the_same_mixture():
    method, state, specs, replies = run_round(head="client")
    other_method, other_state, *_ = run_round()
    for spec, reply in zip(specs, replies, strict=True):
        sent, other = method.send(state, spec), other_method.send(other_state, spec)
        assert torch.equal(sent[HEAD], reply.tensors[HEAD])
        assert are_equal(without_head(sent), without_head(other)) and not torch.equal(sent[HEAD], other[HEAD])
    assert not other_state.client_heads


def test_a_client_that_was_not_drawn_keeps_its_head_and_a_new_one_starts_from_the_mean():
    method, state, specs, replies = run_round(clients=2, head="client")
    mean = state.heads[0][HEAD]
    assert torch.equal(method.send(state, specs[3])[HEAD], mean)
    assert torch.equal(method.send(state, JOINING)[HEAD], mean)
    later = method.aggregate(state, make_masked_replies(state, specs[2:], 20, 2)[0])
    assert torch.equal(method.send(later, specs[0])[HEAD], replies[0].tensors[HEAD])


def test_a_joining_client_keeps_its_own_head_from_its_first_reply_on():
    method, state, _, _ = run_round(head="client")
    joining = ClientSpec("joining", 5)
    reply, _ = make_masked_reply(state.modules["c0"], joining, 77, 2)
    assert torch.equal(method.send(method.add_client(state, reply), joining)[HEAD], reply.tensors[HEAD])
