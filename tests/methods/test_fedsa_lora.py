"""FedSA-LoRA: the A's are averaged, B and the head stay at the client."""

from helpers.replies import (
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message
from fedpeft.methods.fedsa_lora import take_a

A_NAMES = {f"{module}.lora_A.weight" for module in SHAPES}


def test_only_a_travels_and_is_averaged_by_examples():
    method, replies = build_method("fedsa_lora"), make_lora_replies(travels=lambda name: "lora_A" in name)
    state, specs = start_lora(method)
    assert are_equal(method.send(state, specs[0]), take_a(lora_tensors(99)))
    sent = method.send(method.aggregate(state, replies), specs[0])
    assert sent.keys() == A_NAMES
    assert all(is_close(tensor, mean_tensor(replies, name)) for name, tensor in sent.items())


def test_a_client_keeps_its_own_b_and_head():
    method, message = build_method("fedsa_lora"), Message("c0", 2, take_a(lora_tensors(1)))
    for trained in (None, lora_tensors(2)):
        model = TensorModel(lora_tensors(3))
        client = make_client(initial=lora_tensors(0), trained=trained)
        method.receive(model, message, client)
        assert are_equal(model.read(), (trained or lora_tensors(0)) | take_a(lora_tensors(1)))
        assert are_equal(method.reply(model, message, client), take_a(lora_tensors(1)))
        assert method.trainable_names(model, message) == model.names
    assert method.uses_client_state
