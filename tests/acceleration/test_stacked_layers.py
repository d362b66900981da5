"""Single stacked layers, against the layers of each client alone. Everything is float64."""

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import PretrainedConfig

from fedpeft.acceleration.row_groups import RowGroups
from fedpeft.acceleration.stacked_layers import StackedBlock, StackedHead, StackedLinear, read_factors
from fedpeft.adapters import LoReftConfig, MaskedLoraConfig
from fedpeft.adapters.reft.prompt import PromptTracker
from fedpeft.engines.templates import attach_adapter

WIDTH, CLIENTS, LENGTH = 6, [0, 0, 2, 2, 1, 1], 5


class OneBlock(nn.Module):
    """A model of one block, which is one linear layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
        self.config = PretrainedConfig(hidden_size=WIDTH)

    def forward(self, input_ids=None, attention_mask=None, hidden=None):
        return self.layers[0](hidden)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return OneBlock().double()


@pytest.fixture
def hidden():
    return torch.randn(len(CLIENTS), LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def lora(backbone, stir, *options):
    """By client, its LoRA layer and adapter name."""
    layers = {}
    for client, (kind, values) in enumerate(options):
        model = attach_adapter(backbone, kind(target_modules=r"layers\.0", **values), client)
        stir(model, seed=client + 1)
        layers[client] = (model.get_submodule("base_model.model.layers.0"), "default")
    return layers


LORA = [
    (LoraConfig, {"r": 2, "lora_alpha": 3}),
    (LoraConfig, {"r": 4, "lora_alpha": 4}),
    (MaskedLoraConfig, {"r": 3, "lora_alpha": 9, "density": 0.5}),
]


def run(base, stacked, hidden, clients=CLIENTS):
    stacked.load(RowGroups.from_clients(clients))
    output = base(hidden)
    stacked.load(None)
    return output


def test_a_linear_layer_adds_each_clients_lora(backbone, stir, hidden):
    layers = lora(backbone, stir, *LORA)
    stacked = StackedLinear(backbone.layers[0], layers)
    output = run(backbone.layers[0], stacked, hidden)
    rows = range(len(CLIENTS))
    plain = [nn.functional.linear(x, backbone.layers[0].weight, backbone.layers[0].bias) for x in hidden]
    expected = torch.stack([layers[CLIENTS[i]][0](hidden[i]) for i in rows])
    torch.testing.assert_close(output, expected)
    assert all((output[i] - plain[i]).abs().max() > 1e-2 for i in rows)
    torch.testing.assert_close(backbone.layers[0](hidden), torch.stack(plain))  # nothing is loaded any more


def test_a_client_without_lora_on_the_layer_has_the_plain_one(backbone, stir, hidden):
    layers = lora(backbone, stir, *LORA)
    stacked = StackedLinear(backbone.layers[0], {1: layers[1]})
    plain = backbone.layers[0](hidden)
    output = run(backbone.layers[0], stacked, hidden)
    assert torch.equal(output[:4], plain[:4]) and not torch.equal(output[4:], plain[4:])
    assert torch.equal(run(backbone.layers[0], stacked, hidden, [0, 0, 0, 2, 2, 2]), plain)


@pytest.mark.parametrize("rank", [2, 20])
def test_factors_multiply_to_the_whole_update(rank, lora_model, factors):
    model = lora_model("bert", dtype=torch.float64, density=0.3)
    model.set_rows({module: rows + 2 for module, rows in model.get_rows().items()})
    model.set_frozen_delta({name: tensor.double() for name, tensor in factors(model, rank).items()})
    for module, (A, B) in model.effective_factors.items():
        stacked_A, stacked_B = read_factors(model.model.get_submodule(module), "default")
        torch.testing.assert_close(stacked_B @ stacked_A, B @ A)
        assert stacked_A.requires_grad and stacked_B.requires_grad


REFT = [
    LoReftConfig(r=2, positions="f1+l2"),
    LoReftConfig(r=3, positions="all", variant="noreft"),
    LoReftConfig(r=1, positions="l1", variant="direft"),
]


def reft(backbone, stir, configs):
    models = []
    for client, config in enumerate(configs):
        model = attach_adapter(backbone, config, client)
        stir(model, seed=client + 1)
        models.append(model)
    return models


@pytest.mark.parametrize("configs", [REFT, [REFT[0]] * 3, [REFT[1]] * 3], ids=["unlike", "alike", "all positions"])
def test_a_block_is_edited_by_each_clients_loreft(configs, backbone, stir, hidden):
    models = reft(backbone, stir, configs)
    layers = {i: (model.get_submodule("base_model.model.layers.0"), "default") for i, model in enumerate(models)}
    tracker = PromptTracker(backbone)
    backbone.register_forward_pre_hook(tracker.begin, with_kwargs=True)
    stacked = StackedBlock(backbone.layers[0], layers, tracker)
    ids = torch.zeros(len(CLIENTS), LENGTH, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 3:] = mask[3, :2] = mask[4, 1:] = 0
    stacked.load(RowGroups.from_clients(CLIENTS))
    output = backbone(input_ids=ids, attention_mask=mask, hidden=hidden)
    stacked.load(None)
    plain = backbone(input_ids=ids, attention_mask=mask, hidden=hidden)
    for i, client in enumerate(CLIENTS):
        row = slice(i, i + 1)
        expected = models[client](input_ids=ids[row], attention_mask=mask[row], hidden=hidden[row])
        real = mask[i] != 0
        torch.testing.assert_close(output[i, real], expected[0, real])
        assert (output[i, real] - plain[i, real]).abs().max() > 1e-2


def test_a_client_without_loreft_on_the_block_has_the_plain_one(backbone, stir, hidden):
    models = reft(backbone, stir, REFT)
    tracker = PromptTracker(backbone)
    backbone.register_forward_pre_hook(tracker.begin, with_kwargs=True)
    layer = models[1].get_submodule("base_model.model.layers.0")
    stacked = StackedBlock(backbone.layers[0], {1: (layer, "default")}, tracker)
    ids = torch.zeros(len(CLIENTS), LENGTH, dtype=torch.long)
    plain = backbone(input_ids=ids, hidden=hidden)
    stacked.load(RowGroups.from_clients(CLIENTS))
    output = backbone(input_ids=ids, hidden=hidden)
    assert torch.equal(output[:4], plain[:4]) and not torch.equal(output[4:], plain[4:])


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_head_is_each_clients_own_or_the_plain_one(has_bias):
    torch.manual_seed(0)
    base, *heads = (nn.Linear(4, 3, bias=has_bias).double() for _ in range(3))
    stacked = StackedHead(base, {0: heads[0], 2: heads[1]})
    x = torch.randn(6, 4, dtype=torch.float64)
    output = run(base, stacked, x)
    torch.testing.assert_close(output[:2], heads[0](x[:2]))
    torch.testing.assert_close(output[2:4], heads[1](x[2:4]))
    torch.testing.assert_close(output[4:], base(x[4:]))  # client 1 trains none
    output.sum().backward()
    torch.testing.assert_close(heads[1].weight.grad, x[2:4].sum(0).expand(3, 4))


def test_gradients_reach_each_clients_own_tensors(backbone, stir, hidden):
    layers = lora(backbone, stir, *LORA)
    run(backbone.layers[0], StackedLinear(backbone.layers[0], layers), hidden).square().sum().backward()
    stacked = {c: [p.grad.clone() for p in layer.parameters() if p.requires_grad] for c, (layer, _) in layers.items()}
    for client, (layer, _) in layers.items():
        layer.zero_grad()
        layer(hidden[[i for i, row in enumerate(CLIENTS) if row == client]]).square().sum().backward()
        expected = [p.grad for p in layer.parameters() if p.requires_grad]
        assert len(expected) == 2
        for gradient, own in zip(stacked[client], expected, strict=True):
            torch.testing.assert_close(gradient, own)
