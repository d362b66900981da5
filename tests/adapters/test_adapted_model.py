import threading

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict

from fedpeft.adapters import AdaptedModel, LoReftConfig, is_head, make_lora_config
from fedpeft.adapters.reft.layer import LoReftLayer
from fedpeft.errors import UserError


@pytest.fixture(params=["lora", "reft"])
def adapted(request, tiny_classifier, stir):
    plain = tiny_classifier("bert")
    reft = LoReftConfig(r=3, positions="f2+l3", modules_to_save=["classifier"])
    model = get_peft_model(plain, reft if request.param == "reft" else make_lora_config(plain, r=2, alpha=4))
    stir(model)
    return AdaptedModel(model)


def logits(adapted, batch):
    with torch.no_grad():
        return adapted.model(**batch).logits


def test_names_and_values_are_those_of_pefts_state_dict(adapted):
    expected = get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
    assert adapted.names == tuple(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapted.read().items())
    assert [n for n in adapted.names if is_head(n)] == [f"base_model.model.classifier.{p}" for p in ("weight", "bias")]
    assert not any("default" in name for name in adapted.names)


def test_only_the_named_parameters_train_and_dropout_is_off(adapted):
    trained = {id(p) for p in adapted.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in adapted.parameters()}
    assert not any(module.training for module in adapted.model.modules())


def test_read_is_a_copy_and_write_brings_it_back(adapted, padded):
    batch = padded()
    before, kept = logits(adapted, batch), adapted.read()
    adapted.write({name: tensor + 0.1 for name, tensor in kept.items()})
    assert not torch.equal(logits(adapted, batch), before)
    adapted.write(kept)
    assert torch.equal(logits(adapted, batch), before)
    assert all(p.requires_grad and p.grad is None for p in adapted.parameters())


def test_write_touches_exactly_the_given_names(adapted):
    before, name = adapted.read(), adapted.names[1]
    adapted.write({name: torch.ones_like(before[name], dtype=torch.bfloat16)})
    after = adapted.read()
    assert torch.equal(after[name], torch.ones_like(before[name]))
    assert all(torch.equal(after[other], before[other]) for other in adapted.names if other != name)
    adapted.write({})


def test_a_wrong_name_or_shape_is_refused_before_anything_is_written(adapted):
    before, first = adapted.read(), adapted.names[0]
    good = {first: torch.zeros_like(before[first])}
    with pytest.raises(ValueError, match=r"Received: nonsense$"):
        adapted.write(good | {"nonsense": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"Received: \(1, 2\)$"):
        adapted.write(good | {adapted.names[1]: torch.zeros(1, 2)})
    assert torch.equal(adapted.read()[first], before[first])


def test_parameters_follow_the_order_of_the_names(adapted):
    names = tuple(reversed(adapted.names))
    shapes = [tuple(p.shape) for p in adapted.parameters(names)]
    assert shapes == [tuple(adapted.read()[name].shape) for name in names]
    assert all(a is b for a, b in zip(adapted.parameters(), adapted.parameters(adapted.names), strict=True))


def test_a_clone_shares_what_is_frozen_and_owns_what_is_trained(adapted, padded):
    batch, twin = padded(), adapted.clone()
    ours, theirs = ({id(t) for t in s.model.parameters()} for s in (adapted, twin))
    assert ours - theirs == {id(p) for p in adapted.parameters()}
    assert theirs - ours == {id(p) for p in twin.parameters()}
    assert {id(b) for b in adapted.model.buffers()} == {id(b) for b in twin.model.buffers()}
    expected = logits(adapted, batch)
    assert torch.equal(logits(twin, batch), expected)
    twin.write({name: tensor + 1 for name, tensor in twin.read().items()})
    assert torch.equal(logits(adapted, batch), expected)
    assert not torch.equal(logits(twin, batch), expected)


def test_clones_in_threads_give_what_they_give_alone(adapted, padded):
    batches = [padded("left", seed=1), padded("right", seed=2), padded("left", seed=3)]
    models = [adapted.clone() for _ in batches]
    expected = [logits(adapted, batch) for batch in batches]
    got: list[list[torch.Tensor]] = [[] for _ in batches]

    def work(index: int) -> None:
        for _ in range(20):
            got[index].append(logits(models[index], batches[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs, wanted in zip(got, expected, strict=True):
        assert len(outputs) == 20 and all(torch.equal(out, wanted) for out in outputs)


def test_training_through_the_adapted_model(adapted, padded):
    batch, labels = padded(), torch.tensor([0, 1, 2])
    optimiser = torch.optim.AdamW(adapted.parameters(), lr=0.02, weight_decay=0.0)
    frozen = [(p, p.detach().clone()) for p in adapted.model.parameters() if not p.requires_grad]
    losses = []
    for _ in range(15):
        loss = adapted.model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        adapted.retract_()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(p, before) for p, before in frozen)
    for layer in adapted.model.modules():
        if isinstance(layer, LoReftLayer):
            rows = layer.reft_R["default"].detach()
            torch.testing.assert_close(rows @ rows.mT, torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-5)


def test_sizes_count_adapter_and_head_apart(adapted):
    total = sum(p.numel() for p in adapted.model.parameters() if p.requires_grad)
    assert adapted.count_parameters()["head"] == 3 * 32 + 3
    assert adapted.count_parameters()["adapter"] == total - adapted.count_parameters()["head"]


def test_lora_dropout_is_refused_because_clients_train_without(tiny_classifier):
    plain = tiny_classifier("bert")
    config = make_lora_config(plain, r=2, alpha=4)
    config.lora_dropout = 0.1
    with pytest.raises(UserError, match=r"^lora_dropout: .* set it to 0\. Received: 0\.1"):
        AdaptedModel(get_peft_model(plain, config))
    config.inference_mode = True  # an adapter that somebody trained elsewhere, to predict with
    AdaptedModel(get_peft_model(tiny_classifier("bert"), config))
