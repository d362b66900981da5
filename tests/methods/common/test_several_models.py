"""Several models in one message, told apart by numbers that may have several digits."""

import torch
from helpers.replies import are_equal

from fedpeft.federation.message import Message
from fedpeft.methods.common.several_models import number_names, select_model


def test_each_model_is_found_under_its_number():
    models = [{"a": torch.tensor([float(j)]), "0/b": torch.tensor([-float(j)])} for j in range(12)]
    tensors = {name: t for j, model in enumerate(models) for name, t in number_names(model, j).items()}
    message = Message("c0", 1, tensors)
    assert all(are_equal(select_model(message, j), model) for j, model in enumerate(models))
    assert select_model(message, 12) == {}
