"""FedHFT with an `own_weight`: a client's own last model is part of what it is sent, as one more cluster."""

import pytest
import torch
from helpers.masked_replies import build_fedhft, make_masked_replies, make_masked_reply, start_fedhft
from helpers.replies import HEAD, JOINING, SHAPES, are_equal, get_delta, is_close, truncate_dense

from fedpeft.federation.client import ClientSpec

RANK = 12  # of every client: above that of two rounds, so that nothing is cut off


def run_rounds(own_weight, clients=4, rounds=2):
    method = build_fedhft(warmup=100, own_weight=own_weight)
    state, specs = start_fedhft(method, ranks=(RANK,) * 4)
    history = []  # what each was sent, its reply, its dense update, by round
    for round_ in range(1, rounds + 1):
        sent = {spec.id: method.send(state, spec) for spec in specs}
        replies, updates = make_masked_replies(state, specs[:clients], 10 * round_, round_)
        history.append((sent, replies, updates))
        state = method.aggregate(state, replies)
    return method, state, specs, history


def dense(factors):
    b, a = factors
    return b.double() @ a.double()


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("module", SHAPES)
def test_what_is_sent_is_the_mixture_and_the_clients_own_last_model(module, weight):
    method, state, specs, history = run_rounds(weight)
    sent_before, replies, updates = history[-1]
    for spec, reply, update in zip(specs, replies, updates, strict=True):
        own = get_delta(sent_before[spec.id], module) + update[module][0]
        expected = (1 - weight) * dense(state.updates[0][module]) + weight * own
        sent = method.send(state, spec)
        assert is_close(get_delta(sent, module), truncate_dense(expected, RANK), 1e-4)
        head = (1 - weight) * state.heads[0][HEAD].double() + weight * reply.tensors[HEAD].double()
        assert is_close(sent[HEAD], head)


def test_a_client_that_was_not_drawn_keeps_its_own_and_others_start_from_the_mixture():
    method, state, specs, _ = run_rounds(1.0, clients=2, rounds=1)
    assert torch.equal(method.send(state, specs[3])[HEAD], state.heads[0][HEAD])
    assert torch.equal(method.send(state, JOINING)[HEAD], state.heads[0][HEAD])
    later = method.aggregate(state, make_masked_replies(state, specs[2:], 20, 2)[0])
    for module in SHAPES:
        assert is_close(
            get_delta(method.send(later, specs[0]), module), get_delta(method.send(state, specs[0]), module)
        )
    assert are_equal({HEAD: method.send(later, specs[0])[HEAD]}, {HEAD: method.send(state, specs[0])[HEAD]})


def test_a_joining_client_is_sent_its_own_model_from_its_first_reply_on():
    method, state, specs, _ = run_rounds(1.0)
    joining = ClientSpec("joining", 5)
    sent = method.send(state, joining)
    reply, update = make_masked_reply(state.modules["c0"], joining, 77, 3)
    after = method.add_client(state, reply)
    assert torch.equal(method.send(after, joining)[HEAD], reply.tensors[HEAD])
    for module in SHAPES:
        own = get_delta(sent, module) + update[module][0]
        assert is_close(get_delta(method.send(after, joining), module), truncate_dense(own, RANK), 1e-4)
    assert all(are_equal(method.send(after, spec), method.send(state, spec)) for spec in specs)


def test_without_a_weight_nothing_of_a_clients_own_is_kept():
    _, state, _, _ = run_rounds(0.0)
    assert not state.own_heads and not state.own_updates
