"""The defaults of the method contract."""

from dataclasses import fields

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.replies import TensorModel, are_equal, build_method, lora_tensors, make_client, make_reply

from fedpeft.errors import UserError
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo, Method, MethodOptions, example_weights, get_layout
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method, list_built_in
from fedpeft.resources import ClientResources


class Plain(Method):
    """As little of a method as there can be."""

    def start(self, info, seed):
        return info.shared_initial_tensors()

    def send(self, state, client):
        return state

    def aggregate(self, state, replies):
        return state


def make_info(*layouts):
    specs = tuple(ClientSpec(f"c{i}", 1) for i in range(len(layouts)))
    return FederationInfo(specs, {spec.id: tensors for spec, tensors in zip(specs, layouts, strict=True)})


def test_clients_of_one_layout_share_a_start():
    info = make_info(lora_tensors(0), lora_tensors(0))
    assert info.shared_initial_tensors() is info.initial["c0"]


def test_clients_of_unlike_layouts_do_not_and_the_message_names_two_and_what_to_do():
    with pytest.raises(UserError, match=r"same adapter at every client, but 'c0' and 'c2' differ .*`levels: lowest`"):
        make_info(lora_tensors(0), lora_tensors(1), lora_tensors(2, rank=2)).shared_initial_tensors()


def test_the_layout_is_names_dtypes_and_shapes():
    layout = get_layout({"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.uint8)})
    assert layout == {"a": (torch.float32, (2, 3)), "b": (torch.uint8, (1,))}


def test_weights_are_fractions_of_the_examples():
    weights = example_weights([make_reply("a", {}, 1), make_reply("b", {}, 3)])
    assert weights.dtype == torch.float64 and weights.tolist() == [0.25, 0.75]


def test_the_adapter_follows_options_and_resources():
    method, plain = build_method("fedit", adapter={"r": 4, "alpha": 12}), make_classifier()
    for rank, expected in ((None, 4), (2, 2)):
        config = method.adapter(plain, ClientSpec("c0", 1, ClientResources(rank=rank)))
        assert config.r == expected and config.lora_alpha == 3 * expected


def test_what_is_not_overridden_is_nothing():
    method, reply = Plain(MethodOptions()), make_reply("c0", lora_tensors(1))
    message, state = Message("c0", 1, lora_tensors(0)), lora_tensors(2)
    model, client = TensorModel(lora_tensors(3)), make_client()
    assert method.reply_layout(state, message) == get_layout(message.tensors)
    assert method.rejection_reason(state, reply) is None and method.penalty(model, message, client) is None
    assert method.update_baseline(state, message, reply) is message.tensors
    assert method.add_client(state, reply) is state and method.reference_models(state) == {}
    assert method.trainable_names(model, message) == model.names
    assert method.uses_client_state and not method.pools_data
    assert method.receive(model, message, client) == {} and are_equal(model.read(), message.tensors)
    model.write(lora_tensors(3))
    method.load_personal(model, message, client)
    assert are_equal(model.read(), message.tensors)


@pytest.mark.parametrize(("round_", "expected"), [(1, 0.2), (2, 0.1), (4, 0.025)])
def test_the_learning_rate_decays_from_the_second_round_on(round_, expected):
    method = Plain(MethodOptions(lr=0.2))
    assert method.lr(Message("c0", round_, {}), TrainingConfig(lr_decay=0.5)) == pytest.approx(expected)


def test_a_round_ends_with_a_reply_of_what_was_trained():
    model, client = TensorModel(lora_tensors(0)), make_client()
    model.set_frozen_delta({"m.merged_A": torch.ones(1)})
    reply = Plain(MethodOptions()).finish(model, Message("c0", 7, {}), client, 0.5, {"cluster": 1, "loss": 0.25})
    assert (reply.client, reply.round, reply.scalars) == ("c0", 7, {"examples": 5, "loss": 0.25, "cluster": 1})
    assert are_equal(client.local.trained, model.snapshot()) and are_equal(reply.tensors, lora_tensors(0))
    assert all(reply.tensors[name] is client.local.trained[name] for name in reply.tensors)


def test_a_round_trains_what_the_method_names_with_its_penalty():
    seen = []

    class Watched(Plain):
        def trainable_names(self, model, message):
            return tuple(name for name in model.names if "lora_B" in name)

        def penalty(self, model, message, client):
            seen.append(model.read())
            return lambda: 1e3 * model.parameters(self.trainable_names(model, message))[0].sum()

        def receive(self, model, message, client):
            return super().receive(model, message, client) | {"note": 1}

    lora = build_method("fedit", adapter={"r": 2})
    method = Watched(lora.options)
    clients, state = make_clients(method, make_classifier())
    client, model = clients[0]
    sent = {name: tensor + 0.01 for name, tensor in state.items()}
    reply = train_client(method, sent, client, model, batch_size=8)
    assert are_equal(seen[0], sent)  # the penalty is asked for after `receive`
    assert reply.scalars["note"] == 1 and reply.scalars["examples"] == 8
    for name, tensor in reply.tensors.items():
        assert torch.equal(tensor, sent[name]) != ("lora_B" in name), name
    first = next(name for name in model.names if "lora_B" in name)
    step = lora.options.lr  # Adam's first step against a penalty that outweighs the loss
    torch.testing.assert_close(reply.tensors[first], sent[first] - step, rtol=0, atol=0.01 * step)


def test_methods_must_say_how_they_start_send_and_aggregate():
    assert Method.__abstractmethods__ == {"start", "send", "aggregate"}


@pytest.mark.parametrize("options", [{"lr": float("inf")}, {"lr": float("nan")}, {"lr": 0.0}, {"rate": 0.1}])
def test_options_that_are_no_number_or_unknown_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MethodOptions(**options)


@pytest.mark.parametrize(
    ("name", "ignored"),
    [("fedit", ["density"]), ("hetlora", ["density"]), ("fedreft", ["density"]), ("fedhft", []), ("zero_shot", [])],
)
def test_a_method_says_what_of_the_resources_it_does_not_follow(name, ignored):
    method = build_method(name)
    given = [ClientResources(rank=2, layers=(0,)), ClientResources(density=0.5, micro_batch=2, checkpointing=True)]
    assert method.list_ignored(given) == ignored
    assert method.list_ignored([ClientResources(), ClientResources(rank=1)]) == []


def test_every_setting_of_the_resources_is_known_to_the_declaration():
    names = {field.name for field in fields(ClientResources)}
    for name in list_built_in():
        assert find_method(name).follows <= names
    assert Method.follows | {"density"} == names
