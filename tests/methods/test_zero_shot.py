"""Zero-shot: the seeded start is scored, and never trained."""

from helpers.replies import TensorModel, are_equal, build_method, lora_tensors, make_client, start_lora

from fedpeft.federation.message import Message
from fedpeft.federation.training_config import TrainingConfig


def test_nothing_is_trained_and_nothing_travels():
    method = build_method("zero_shot")
    state, specs = start_lora(method)
    client, model = make_client(initial=lora_tensors(1)), TensorModel(lora_tensors(0))
    message = Message("c0", 3, method.send(state, specs[0]))
    reply = method.train(model, message, client, TrainingConfig(), None)
    assert (reply.client, reply.round, reply.tensors, dict(reply.scalars)) == ("c0", 3, {}, {"examples": 5})
    assert client.local.trained is None and method.trainable_names(model, message) == ()
    assert method.receive(model, message, client) == {} and are_equal(model.read(), lora_tensors(1))
