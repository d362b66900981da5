"""Local: nothing travels, and every round goes on from the client's own."""

from helpers.replies import (
    TensorModel,
    are_equal,
    build_method,
    lora_tensors,
    make_client,
    make_lora_replies,
    start_lora,
)

from fedpeft.federation.message import Message


def test_nothing_travels_and_the_server_holds_nothing():
    method = build_method("local")
    state, specs = start_lora(method, (1, 2, 3, 4))  # clients may differ
    assert method.send(state, specs[0]) == {} == method.reply(TensorModel(lora_tensors(0)), None, make_client())
    assert method.aggregate(state, make_lora_replies()) is state
    assert method.reply_layout(state, Message("c0", 1, {})) == {}


def test_a_round_goes_on_from_the_last_and_the_first_from_the_start():
    method, message = build_method("local"), Message("c0", 2, {})
    for trained in (None, lora_tensors(2)):
        model = TensorModel(lora_tensors(0))
        assert method.receive(model, message, make_client(initial=lora_tensors(1), trained=trained)) == {}
        assert are_equal(model.read(), trained or lora_tensors(1))
    assert method.uses_client_state
