"""FedEx-LoRA: base, frozen delta and the mean factors together are the exact mean of the clients' models."""

import pytest
import torch
from helpers.replies import (
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    get_delta,
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
from fedpeft.federation.method import get_layout
from fedpeft.methods.common.cumulative_delta import ADDED, take_frozen_delta


@pytest.mark.parametrize("module", SHAPES)
def test_it_is_exact_and_a_client_that_missed_rounds_is_sent_everything(module):
    method = build_method("fedex_lora")
    state, specs = start_lora(method)
    exact = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3):
        replies = make_lora_replies(round_=round_, base=10 * round_)[: 3 if round_ == 3 else 4]
        # W0 + what was added + s B A must be the mean of what the clients had: added before + their own products
        target = exact + mean_product(replies, module)
        state = method.aggregate(state, replies)
        sent = method.send(state, specs[0])
        assert all(name.startswith(ADDED) for name in sent.keys() - state.tensors.keys())
        exact = exact + get_delta(sent, module)
        assert is_close(exact + get_product(sent, module), target, 1e-4)
    missed = method.send(state, specs[3])
    assert is_close(get_delta(missed, module), exact, 1e-4)
    assert not any(name.startswith(ADDED) for name in missed)


def test_the_factors_are_averaged_by_examples():
    method, replies = build_method("fedex_lora"), make_lora_replies()
    state, specs = start_lora(method)
    assert are_equal(method.send(state, specs[0]), lora_tensors(99))
    after = method.aggregate(state, replies)
    assert all(is_close(tensor, mean_tensor(replies, name)) for name, tensor in after.tensors.items())


def test_the_residual_is_of_small_rank():
    method = build_method("fedex_lora")
    state, _ = start_lora(method)
    replies = make_lora_replies()
    assert method.aggregate(state, replies[:2]).last["m.layer.0.q"][1].shape[0] == 3  # (2 - 1) r
    assert method.aggregate(state, replies).last["m.layer.0.q"][1].shape[0] == 7  # 9, but the module has 7 rows


def test_a_client_replies_its_factors_and_holds_the_delta_beside_them():
    method = build_method("fedex_lora")
    state, specs = start_lora(method)
    state = method.aggregate(state, make_lora_replies())
    message = Message("c0", 2, method.send(state, specs[0]))
    model = TensorModel(lora_tensors(5))
    assert method.receive(model, message, make_client()) == {}
    assert are_equal(model.read(), state.tensors)
    assert all(is_close(get_delta(model.frozen_delta, m), get_delta(message.tensors, m)) for m in SHAPES)
    assert len(take_frozen_delta(model.frozen_delta)) == len(model.frozen_delta) == 2 * len(SHAPES)
    assert method.reply_layout(state, message) == get_layout(lora_tensors(0))
    assert method.uses_client_state
