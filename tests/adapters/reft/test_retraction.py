"""R keeps orthonormal rows under loops that know nothing of LoReFT."""

import copy
import gc

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from fedpeft.adapters import AdaptedModel, LoReftConfig
from fedpeft.adapters.reft import retraction


@pytest.fixture
def wrapped(tiny_classifier):
    """wrapped(variant="noreft") -> a classifier with LoReFT, in training mode."""

    def build(**options):
        torch.manual_seed(0)
        config = LoReftConfig(r=3, positions="f2+l2", modules_to_save=["classifier"], **options)
        return get_peft_model(tiny_classifier("bert"), config).train()

    return build


def measure_deviation(model):
    """Largest |R R^T - I| over the model."""
    rows = torch.stack([p.detach() for name, p in model.named_parameters() if ".reft_R" in name])
    return (rows @ rows.mT - torch.eye(rows.shape[-2])).abs().max().item()


def train(model, batch, steps=5, optimiser=None):
    optimiser = optimiser or torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(**batch).logits.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_under_the_trainer_of_transformers(wrapped, padded, tmp_path):
    model, batch = wrapped(), padded()
    rows = [{name: tensor[i] for name, tensor in batch.items()} | {"labels": i} for i in range(3)]
    options = TrainingArguments(
        str(tmp_path), max_steps=4, learning_rate=0.05, report_to=[], use_cpu=True, save_strategy="no",
        logging_strategy="no", disable_tqdm=True, weight_decay=0.1, gradient_accumulation_steps=2,
        per_device_train_batch_size=1,
    )  # fmt: skip
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if ".reft_" in name}
    Trainer(model, options, train_dataset=rows).train()
    assert measure_deviation(model) < 1e-5
    assert all(not torch.equal(parameter, start[name]) for name, parameter in model.named_parameters() if name in start)


def test_under_a_plain_loop_of_a_copy_and_with_several_adapters(wrapped, padded):
    model, batch = copy.deepcopy(wrapped()), padded()
    train(model, batch)
    model.add_adapter("second", LoReftConfig(r=5, layers=[1], positions="all"))
    model.base_model.set_adapter(["default", "second"])  # of two shapes
    train(model, batch)
    for name in ("default", "second"):
        for R in (p.detach() for key, p in model.named_parameters() if key.endswith(f"reft_R.{name}")):
            torch.testing.assert_close(R @ R.mT, torch.eye(R.shape[1]).expand(len(R), -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["noreft", "direft"])
def test_variants_without_the_constraint_are_left_alone(variant, wrapped, padded):
    model = wrapped(variant=variant)
    train(model, padded())
    assert measure_deviation(model) > 1e-2


def test_a_step_over_other_parameters_changes_no_r(wrapped, padded):
    model, batch = wrapped(), padded()
    other = torch.nn.Parameter(torch.ones(2))
    other.grad = torch.ones(2)
    R = next(p for name, p in model.named_parameters() if ".reft_R" in name)
    with torch.no_grad():
        R.mul_(2)
    expected = R.detach().clone()
    train(model, batch, steps=1, optimiser=torch.optim.SGD([other], lr=1))
    assert torch.equal(R, expected)


def test_our_own_training_retracts_once_not_twice(wrapped, padded, monkeypatch):
    """An `AdaptedModel` is in eval mode, and the caller retracts: a second retraction would change rounding."""
    model = AdaptedModel(wrapped())
    calls = []
    monkeypatch.setattr(type(model.model.base_model), "retract_", lambda tuner: calls.append(tuner))
    train(model.model, padded(), steps=2)
    assert not calls


def test_models_that_are_gone_are_forgotten(wrapped, padded):
    model = wrapped()
    model(**padded())
    assert model.base_model in retraction._in_training
    size = len(retraction._in_training)
    del model
    gc.collect()
    assert len(retraction._in_training) < size
