"""FedReFT whose clients hear above all those who are like them."""

import torch
from helpers.replies import build_method, make_reft_replies, start_reft

from fedpeft.adapters import find_interventions
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply


def shift_b(reply, distance):
    """The reply with every b moved."""
    moves = {b: reply.tensors[b] + distance for _, _, b in find_interventions(reply.tensors)}
    return Reply(reply.client, reply.round, reply.tensors | moves, reply.scalars)


def test_a_client_receives_its_own_group_and_a_joining_one_the_mean():
    method = build_method("fedreft", abm="similarity")
    replies = [shift_b(reply, 1e3 * (k % 2)) for k, reply in enumerate(make_reft_replies([1] * 6))]
    state, _ = start_reft(method, len(replies))
    state = method.aggregate(state, replies)
    for _, _, b in find_interventions(replies[0].tensors):
        for k in range(6):
            own = torch.stack([replies[j].tensors[b] for j in range(6) if j % 2 == k % 2])
            received = method.send(state, ClientSpec(f"c{k}", 1))[b]
            assert abs(float(received.mean() - own.mean())) < 10  # of 1,000 between the groups
        everyone = torch.stack([reply.tensors[b] for reply in replies]).mean(0)
        assert torch.allclose(method.send(state, ClientSpec("joining", 1))[b], everyone, rtol=1e-5)


def test_no_client_hears_itself():
    method = build_method("fedreft", abm="similarity")
    replies = make_reft_replies([1] * 5)
    state, _ = start_reft(method, 5)
    before = method.aggregate(state, replies).others["c0"]
    changed = [shift_b(replies[0], 1e-3), *replies[1:]]
    after = method.aggregate(state, changed).others
    _, _, b = next(iter(find_interventions(before)))
    others = torch.stack([reply.tensors[b] for reply in replies[1:]])
    assert torch.all(after["c0"][b] <= others.amax(0) + 1e-5)
    assert torch.all(after["c0"][b] >= others.amin(0) - 1e-5)
