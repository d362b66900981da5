"""Centralised: one simulated client holds all examples, and what it trains is the model of all clients."""

import pytest
from helpers.replies import are_equal, build_method, lora_tensors, make_lora_replies, start_lora


def test_the_one_clients_tensors_are_everybodys():
    method = build_method("centralised")
    state, specs = start_lora(method)
    assert are_equal(method.send(state, specs[0]), lora_tensors(99))
    (reply, *others) = make_lora_replies()
    after = method.aggregate(state, [reply])
    assert all(are_equal(method.send(after, spec), reply.tensors) for spec in specs)
    with pytest.raises(ValueError):
        method.aggregate(state, [reply, *others])
    assert method.pools_data and not method.uses_client_state
