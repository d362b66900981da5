"""FedHFT at the client: which rows travel, what they are chosen by, and what trains."""

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.replies import are_equal

from fedpeft.adapters import MaskedLoraConfig, find_lora_pairs, get_frozen_delta_names, take_head
from fedpeft.aggregation import row_energy, top_rows, unpack_rows
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import get_layout
from fedpeft.federation.training import LocalTrainer
from fedpeft.methods.fedhft import FedHft
from fedpeft.resources import ClientResources

DENSITY = 0.3


@pytest.fixture(scope="module")
def plain():
    return make_classifier()


@pytest.fixture
def squared_gradients(monkeypatch):
    """The squared gradients of every tensor, summed over the steps of all clients."""
    sums, real = {}, LocalTrainer.step

    def watch(self, batch, loss):
        for name, parameter in zip(self.model.names, self.model.parameters(), strict=True):
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad.double().square()
        return real(self, batch, loss)

    monkeypatch.setattr(LocalTrainer, "step", watch)
    return sums


def run_client(plain, round_=1, density=DENSITY, state=None, **options):
    """The reply of a client, the client, its model, the method and the state."""
    method = FedHft(FedHft.Options(**{"lr": 1e-2, "adapter": {"r": 2}, **options}))
    clients, start = make_clients(method, plain, densities=(density, 1.0, 1.0))
    client, model = clients[0]
    return train_client(method, state or start, client, model, round_), client, model, method, start


def sent_rows(reply):
    return {
        name.removesuffix(".lora_row_bitmap"): bitmap
        for name, bitmap in reply.tensors.items()
        if name.endswith(".lora_row_bitmap")
    }


def unpack(reply, model):
    return {
        module: unpack_rows(bitmap, model.get_dimensions()[module][0]) for module, bitmap in sent_rows(reply).items()
    }


def by_energy(trained):
    return {
        module: top_rows(row_energy((trained[b].double(), trained[a].double())), DENSITY)
        for module, a, b in find_lora_pairs(trained)
    }


@pytest.mark.parametrize("importance", ["fisher", "energy"])
def test_the_rows_that_travel_are_those_of_the_importance_asked_for(plain, squared_gradients, importance):
    reply, client, model, _, _ = run_client(plain, importance=importance)
    trained = client.local.trained
    expected = {
        "energy": by_energy(trained),
        "fisher": {m: top_rows(squared_gradients[b].sum(1), DENSITY) for m, _, b in find_lora_pairs(trained)},
    }
    rows = unpack(reply, model)
    assert all(torch.equal(rows[module], expected[importance][module]) for module in rows)
    assert any(not torch.equal(expected["fisher"][module], expected["energy"][module]) for module in rows)
    for module, a, b in find_lora_pairs(trained):
        assert torch.equal(reply.tensors[f"{module}.lora_masked_B"], trained[b][rows[module]])
        assert torch.equal(reply.tensors[a], trained[a])


def test_the_papers_importance_is_the_default():
    assert FedHft.Options().importance == "fisher" and FedHft.Options().masks == "after"


def test_a_reply_has_the_layout_that_the_server_expects_and_the_head(plain):
    reply, client, _, method, state = run_client(plain)
    assert get_layout(reply.tensors) == method.reply_layout(state, Message("c0", 1, {}))
    assert are_equal(take_head(reply.tensors), take_head(client.local.trained))
    assert reply.scalars.keys() == {"examples", "loss"} and reply.scalars["examples"] == 8
    assert reply.scalars["loss"] > 0 and (reply.client, reply.round) == ("c0", 1)


def test_at_full_density_all_rows_travel(plain):
    reply, _, model, _, _ = run_client(plain, density=1.0)
    assert all(len(rows) == model.get_dimensions()[module][0] for module, rows in unpack(reply, model).items())


def test_with_masks_before_only_the_drawn_rows_exist_and_they_travel(plain):
    replies = [run_client(plain, round_, masks="before") for round_ in (1, 2)]
    drawn = []
    for reply, client, model, method, state in replies:
        rows = unpack(reply, model)
        held = model.get_rows()
        assert held.keys() == rows.keys() and all(torch.equal(held[module], rows[module]) for module in rows)
        for module, _, b in find_lora_pairs(client.local.trained):
            assert client.local.trained[b].shape[0] == len(rows[module])
            assert torch.equal(reply.tensors[f"{module}.lora_masked_B"], client.local.trained[b])
        assert get_layout(reply.tensors) == method.reply_layout(state, Message("c0", 1, {}))
        drawn.append(rows)
    assert any(not torch.equal(drawn[0][module], drawn[1][module]) for module in drawn[0])


def test_masks_decide_which_adapter_is_made(plain):
    spec = ClientSpec("c0", 8, ClientResources(density=DENSITY))
    for masks, is_masked in (("before", True), ("after", False)):
        method = FedHft(FedHft.Options(masks=masks))
        assert isinstance(method.adapter(plain, spec), MaskedLoraConfig) == is_masked


def test_the_mixture_stays_frozen_beside_a_fresh_lora(plain):
    _, client, model, method, state = run_client(plain)
    module = next(iter(model.get_dimensions()))
    d_out, d_in = model.get_dimensions()[module]
    a, b = get_frozen_delta_names(module)
    delta = {a: torch.randn(2, d_in), b: torch.randn(d_out, 2)}
    message = Message("c0", 2, method.send(state, client.spec) | delta)
    starts = []
    for round_ in (2, 2, 3):
        assert method.receive(model, Message("c0", round_, message.tensors), client) == {}
        assert are_equal(model.frozen_delta, delta)
        held = model.read()
        assert are_equal(take_head(held), take_head(message.tensors))
        assert not any(held[name].any() for _, _, name in find_lora_pairs(held))
        starts.append(held)
    assert are_equal(starts[0], starts[1]) and not are_equal(starts[0], starts[2])
    reply = train_client(method, state, client, model, 2)
    assert not any("merged" in name for name in reply.tensors)


def test_what_a_client_keeps_is_the_whole_of_what_it_trained(plain):
    _, client, model, _, _ = run_client(plain, density=DENSITY)
    assert client.local.trained.keys() == model.snapshot().keys()
    assert are_equal(client.local.trained, model.snapshot())
