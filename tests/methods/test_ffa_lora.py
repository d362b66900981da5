"""FFA-LoRA: A is everybody's and never travels, so the mean of B is the mean of the products."""

import pytest
from helpers.replies import (
    HEAD,
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    get_product,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_product,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message
from fedpeft.methods.ffa_lora import drop_a

A_NAMES = {f"{module}.lora_A.weight" for module in SHAPES}


@pytest.mark.parametrize("module", SHAPES)
def test_the_aggregate_is_the_exact_mean_of_products(module):
    method = build_method("ffa_lora")
    state, specs = start_lora(method)
    common = {name: state.tensors[name] for name in A_NAMES}
    replies = make_lora_replies(travels=lambda name: "lora_A" not in name)
    sent = method.send(method.aggregate(state, replies), specs[0])
    assert sent.keys() == lora_tensors(0).keys() - A_NAMES and is_close(sent[HEAD], mean_tensor(replies, HEAD))
    for reply in replies:
        reply.tensors.update(common)
    assert is_close(get_product(sent | common, module), mean_product(replies, module))


def test_a_client_derives_a_trains_the_rest_and_sends_it():
    method, start = build_method("ffa_lora"), lora_tensors(0)
    model, message = TensorModel(lora_tensors(3)), Message("c0", 2, drop_a(lora_tensors(1)))
    client = make_client(initial=start, trained=lora_tensors(2))
    method.receive(model, message, client)
    assert are_equal(model.read(), start | drop_a(lora_tensors(1)))
    assert set(method.trainable_names(model, message)) == set(model.names) - A_NAMES
    assert are_equal(method.reply(model, message, client), drop_a(model.read()))
