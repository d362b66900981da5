"""A layer with experts against loops over tokens in float64, its gradients, and what it leaves alone."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters import AdaptedModel, find_expert_layers, get_expert_names, get_router_name
from fedpeft.adapters.experts.config import ExpertsConfig
from fedpeft.errors import UserError

D_IN, D_OUT, RANK, EXPERTS = 7, 5, 2, 3
ALPHA = 3.0


class OneLayer(nn.Module):
    """A model of one linear layer in its one block."""

    def __init__(self, transposed):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"up": Conv1D(D_OUT, D_IN) if transposed else nn.Linear(D_IN, D_OUT)})]
        )
        self.config = {}

    def forward(self, x):
        return self.blocks[0]["up"](x)


@pytest.fixture(params=[False, True], ids=["linear", "conv1d"])
def adapted(request):
    def build(gate="router", experts=EXPERTS):
        torch.manual_seed(0)
        model = OneLayer(request.param).double()
        config = ExpertsConfig(r=RANK, alpha=ALPHA, experts=experts, gate=gate, target_modules=r"blocks\.0\.up")
        peft = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if "expert_" in name:
                    parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
        return AdaptedModel(peft)

    return build


def mix_by_hand(model, x):
    """One token and one expert at a time."""
    tensors, (layer,) = dict(zip(model.names, model.parameters(), strict=True)), find_expert_layers(model.names)
    rows = []
    for token in x:
        row = model.model.get_submodule(layer).base_layer(token)
        weights = (tensors[get_router_name(layer)] @ token).softmax(0)
        for i in range(EXPERTS):
            a, b = (tensors[name] for name in get_expert_names(layer, i))
            row = row + weights[i] * ALPHA / RANK * (b @ (a @ token))
        rows.append(row)
    return torch.stack(rows)


def test_output_and_gradients_are_those_of_a_loop_over_tokens(adapted):
    model = adapted()
    x = torch.randn(4, D_IN, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, D_OUT, dtype=torch.float64)
    gradients = []
    for output in (model.model(x), mix_by_hand(model, x)):
        torch.testing.assert_close(output, mix_by_hand(model, x), rtol=0, atol=1e-12)
        gradients.append(torch.autograd.grad((output * target).sum(), [x, *model.parameters()]))
    for own, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-11)
        assert float(expected.norm()) > 0


def test_a_start_is_the_base_layer_and_every_trained_expert_has_a_gradient():
    torch.manual_seed(0)
    model = OneLayer(False)
    plain = copy.deepcopy(model)
    adapted = AdaptedModel(get_peft_model(model, ExpertsConfig(r=2, target_modules=r"blocks\.0\.up")))
    x = torch.randn(4, D_IN)
    assert torch.equal(adapted.model(x), plain(x))
    adapted.model(x).sum().backward()
    gradients = {n: p.grad for n, p in zip(adapted.names, adapted.parameters(), strict=True)}
    assert all(float(g.norm()) > 0 for n, g in gradients.items() if ".expert_lora.B" in n)


def test_the_frozen_expert_has_no_gradient_and_the_others_keep_theirs(adapted):
    model, x = adapted(), torch.randn(4, D_IN, dtype=torch.float64)
    frozen = get_expert_names(find_expert_layers(model.names)[0], 1)
    whole = torch.autograd.grad(model.model(x).square().sum(), model.parameters())
    for name in frozen:
        model.parameters([name])[0].requires_grad_(False)
    model.model(x).square().sum().backward()
    for name, parameter, expected in zip(model.names, model.parameters(), whole, strict=True):
        if name in frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-11)


def test_switched_off_unloaded_and_merged(adapted):
    model, x = adapted(), torch.randn(4, D_IN, dtype=torch.float64)
    plain = copy.deepcopy(model.base.blocks[0]["up"].base_layer)
    with model.model.disable_adapter():
        assert torch.equal(model.model(x), plain(x))
    with pytest.raises(UserError, match="cannot be merged"):
        model.model.merge_adapter()
    assert torch.equal(model.model.unload()(x), plain(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r: .* at least 1. Received: 0"),
        ({"experts": 65}, "experts: their number is 1 to 64. Received: 65"),
        ({"gate": "best"}, "gate: use one of router, adaptive, similarity. Received: 'best'"),
        ({"gate": "similarity", "experts": 3}, "'similarity' mixes 2. Received: 3"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(options, message):
    with pytest.raises(UserError, match=message):
        ExpertsConfig(**options)


def test_a_rank_above_the_layers_smaller_dimension_is_refused():
    with pytest.raises(UserError, match=r"a 7 x 5 layer have at most rank 5. Received: 6"):
        get_peft_model(OneLayer(False), ExpertsConfig(r=6, target_modules=r"blocks\.0\.up"))


def test_experts_go_on_linear_layers_alone():
    model = nn.Module()
    model.table, model.config = nn.Embedding(3, 4), {}
    with pytest.raises(UserError, match=r"experts go on linear layers.*table, a Embedding"):
        get_peft_model(model, ExpertsConfig(target_modules="table"))
